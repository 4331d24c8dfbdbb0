package rt3d.example

import java.io.Closeable

/** A model of rt3d: frames go in one by one, probabilities come out with each clip. */
class Classifier : Closeable {
    /** The height and width of a frame in pixels. */
    val side = size()

    /** One frame of so many is a part of a clip. */
    val every = stride()

    private var handle = open()

    /**
     * Takes the next frame: [side] rows of [side] pixels, each red, green, blue, 8 bits.
     *
     * Returns the probabilities of the classes when a clip is whole, null otherwise.
     */
    fun push(frame: ByteArray): FloatArray? = push(handle, frame)

    override fun close() {
        if (handle != 0L) close(handle)
        handle = 0
    }

    private external fun open(): Long

    private external fun close(handle: Long)

    private external fun size(): Int

    private external fun stride(): Int

    private external fun push(handle: Long, frame: ByteArray): FloatArray?

    private companion object {
        init {
            System.loadLibrary("classifier")
        }
    }
}
