package rt3d.example

import android.app.Activity
import android.graphics.Bitmap
import android.graphics.Color
import android.os.Bundle
import android.os.SystemClock
import android.view.Gravity
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.TextView
import java.io.EOFException
import java.io.IOException
import java.io.InputStream

/** Plays the clip in the app's assets again and again, with its likeliest classes below it. */
class MainActivity : Activity() {
    private lateinit var picture: ImageView
    private lateinit var said: TextView
    private var player: Thread? = null

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        picture = ImageView(this)
        said = TextView(this)
        val column = LinearLayout(this)
        column.orientation = LinearLayout.VERTICAL
        column.gravity = Gravity.CENTER
        column.addView(picture, SHOWN, SHOWN)
        column.addView(said)
        setContentView(column)
    }

    override fun onStart() {
        super.onStart()
        player = Thread { play() }.also { it.start() }
    }

    override fun onStop() {
        player?.interrupt()
        player?.join()
        player = null
        super.onStop()
    }

    private fun play() {
        try {
            val labels = assets.open("labels.txt").bufferedReader().use { it.readLines() }
            Classifier().use { classifier ->
                while (!Thread.interrupted()) {
                    assets.open("clip.rgb").use { classify(classifier, it, labels) }
                }
            }
        } catch (stopped: InterruptedException) {
            // The app left the screen.
        } catch (error: IOException) {
            tell("clip.rgb or labels.txt: ${error.message}")
        } catch (error: IllegalStateException) {
            tell(error.message ?: "the model failed")
        }
    }

    /** One pass over the clip; the frames' rate is that of a camera. */
    private fun classify(classifier: Classifier, frames: InputStream, labels: List<String>) {
        val side = classifier.side
        val frame = ByteArray(3 * side * side)
        var number = 0
        while (filled(frame, frames)) {
            val began = SystemClock.elapsedRealtimeNanos()
            if (number % classifier.every == 0) {
                val shares = classifier.push(frame)
                val ms = (SystemClock.elapsedRealtimeNanos() - began) / 1e6
                if (shares != null) tell(described(shares, labels, ms))
            }
            number += 1
            val shown = bitmap(frame, side)
            runOnUiThread { picture.setImageBitmap(shown) }
            val spent = (SystemClock.elapsedRealtimeNanos() - began) / 1_000_000
            if (spent < FRAME_MS) Thread.sleep(FRAME_MS - spent)
        }
    }

    private fun described(shares: FloatArray, labels: List<String>, ms: Double): String {
        val best = shares.indices.sortedByDescending { shares[it] }.take(TOP)
        val lines = best.map { "%.3f  %s".format(shares[it], labels.getOrElse(it) { n -> "class $n" }) }
        return "%.0f ms\n%s".format(ms, lines.joinToString("\n"))
    }

    private fun tell(text: String) = runOnUiThread { said.text = text }

    private companion object {
        const val SHOWN = 900
        const val TOP = 5
        const val FRAME_MS = 33L

        /** Reads a whole frame; false at the end of the clip. */
        fun filled(frame: ByteArray, frames: InputStream): Boolean {
            var at = 0
            while (at < frame.size) {
                val got = frames.read(frame, at, frame.size - at)
                if (got < 0 && at == 0) return false
                if (got < 0) throw EOFException("the clip ends inside of a frame")
                at += got
            }
            return true
        }

        fun bitmap(frame: ByteArray, side: Int): Bitmap {
            fun value(at: Int) = frame[at].toInt() and 0xFF
            val pixels =
                IntArray(side * side) { Color.rgb(value(3 * it), value(3 * it + 1), value(3 * it + 2)) }
            return Bitmap.createBitmap(pixels, side, side, Bitmap.Config.ARGB_8888)
        }
    }
}
