"""One video file, and nothing else: its packets, its frames, and how many of them decode."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from rt3d_tvm.data.orientation import orientation_of
from rt3d_tvm.errors import InputError, words_of

# FFmpeg's readers of one file that holds its own frames or, for a clear word, sound. It has others
# that open what the file names (playlists, SDP, scripts), a series of files, devices, or that play
# any text.
_FORMATS = (
    *("mov", "matroska", "webm", "avi", "mpegts", "mpegtsraw", "mpeg", "mpegvideo", "flv"),
    *("live_flv", "asf", "ogg", "nut", "mxf", "gxf", "wtv", "rm", "dv", "ivf", "swf", "ty", "nuv"),
    *("h261", "h263", "h264", "hevc", "vvc", "evc", "av1", "obu", "m4v", "vc1", "vc1test", "dirac"),
    *("mjpeg", "mpjpeg", "yuv4mpegpipe", "gif", "apng", "jpegxl_anim", "webp_pipe", "gif_pipe"),
    *("png_pipe", "jpeg_pipe", "bmp_pipe", "tiff_pipe", "ppm_pipe", "pgm_pipe", "jpegxl_pipe"),
    *("dhav", "pva", "nsv", "kux"),
    *("wav", "w64", "mp3", "aac", "flac", "aiff", "ac3", "eac3", "amr", "caf", "au", "ape", "wv"),
)


@dataclass(frozen=True, kw_only=True)
class VideoSource:
    """Where a batch of clips came from.

    ``frames`` is how many decode, ``damaged`` of them with errors; ``lost`` ones do not.
    """

    path: Path
    codec: str
    width: int
    height: int
    fps: float | None
    frames: int
    damaged: int
    lost: int


def frames_of(path: Path, *, threads: int = 0) -> Iterator[av.VideoFrame]:
    """Every frame that decodes; ``threads`` 0 leaves their number to FFmpeg.

    InputError for a file that is no video, and for frames that are not all of one size.
    """
    with _opened(path) as (container, stream):
        stream.codec_context.thread_count = threads
        yield from decoded_frames(container, stream, path)


def promised_frames(path: Path) -> int:
    """How many frames a video says it has, at least 1: nothing is decoded."""
    with _opened(path) as (container, stream):
        count = stream.frames
        # A damaged header may promise billions; no frame takes less than a byte.
        if not 0 < count <= path.stat().st_size:
            count = sum(
                packet.size > 0 and not packet.is_discard for packet in _packets(container, stream)
            )
    return max(count, 1)


def check_video(path: Path) -> None:
    """InputError for a file that is missing or no video: nothing is decoded, and little read."""
    with _opened(path):
        pass


def count_frames(
    path: Path, *, seen: Callable[[int, av.VideoFrame], None] = lambda index, frame: None
) -> VideoSource:
    """Decode all of a video and count; ``seen`` is given each frame with its index.

    InputError as `frames_of`, and where no frame decodes.
    """
    with _opened(path) as (container, stream):
        packets = trimmed = damaged = 0
        times: list[float | None] = []
        for packet, frames in _decoded(_packets(container, stream), path):
            packets += packet.size > 0
            trimmed += packet.is_discard  # before the cut that an edit list makes: never shown
            for frame in frames:
                seen(len(times), frame)
                damaged += frame.is_corrupt
                times.append(frame.time)
        # Containers that do not count their frames say 0.
        expected = max(packets, stream.frames) - trimmed
        if not times:
            raise InputError(
                f"{path}: none of its {expected} frames decodes; a video with at least one is "
                "expected"
            )
        if not stream.frames:
            # The duration is that of the longest stream, so of this one only if it is alone.
            alone = len(container.streams) == 1 and container.duration is not None
            duration = container.duration / av.time_base if alone else 0.0
            expected = max(expected, _frames_by_time(times, duration))
        rate = stream.average_rate
        return VideoSource(
            path=path,
            codec=stream.codec_context.name,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            fps=float(rate) if rate else None,
            frames=len(times),
            damaged=damaged,
            lost=max(expected - len(times), 0),
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container of the file of that name, and its video."""
    with opened_file(path) as container:
        yield container, video_of(container, path)


@contextlib.contextmanager
def opened_file(path: Path) -> Iterator[av.container.InputContainer]:
    """The container of the file of that name; InputError for one that is missing or no video."""
    with _file(path) as file, opened_descriptor(file.fileno(), path) as container:
        yield container


@contextlib.contextmanager
def opened_descriptor(descriptor: int, name: object) -> Iterator[av.container.InputContainer]:
    """The container that a descriptor leads to: of an open file, or a pipe.

    ``name`` is what messages call it.
    """
    # FFmpeg gets the open file. Names have a meaning to it: "a%d.png" is many files, "concat:"
    # and "http:" are protocols. The lists leave nothing that the file could make it open.
    options = {
        "fd": str(descriptor),
        "protocol_whitelist": "fd",
        "format_whitelist": ",".join(_FORMATS),
    }
    try:
        container = av.open("fd:", options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        what = "not a video file, or damaged at its start"
        if isinstance(error, av.ArgumentError):
            what = "not a file of one video; playlists and the like are not read"
        raise InputError(f"{name}: {what}: {reason}") from error
    with container:
        yield container


@contextlib.contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    try:
        # A pipe would wait for who writes into it.
        file = path.open("rb") if stat.S_ISREG(path.stat().st_mode) else None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: no such file; a video file is expected") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path!r}: no name of a file: {words_of(error)}") from error
    if file is None:
        raise InputError(f"{path}: not a file; a video file is expected")
    with file:
        yield file


def video_of(container: av.container.InputContainer, path: object) -> av.VideoStream:
    """The video of a container, which messages call ``path``; InputError for one without."""
    videos = [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic  # the cover of a song
    ]
    if not videos:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise InputError(f"{path}: no video stream (streams: {kinds}); a video is expected")
    if videos[0].codec_context is None:
        raise InputError(f"{path}: its video is coded in a way that FFmpeg has no decoder for")
    return videos[0]


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets that can be read; a file damaged beyond reading ends early."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        yield packet


def decoded_frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    name: object,
    *,
    packets: Iterator[av.Packet] | None = None,
) -> Iterator[av.VideoFrame]:
    """Every frame of a container's video that decodes; InputError where their size changes.

    ``packets`` are by default all that can be read.
    """
    for _, frames in _decoded(packets or _packets(container, stream), name):
        yield from frames


def _decoded(
    packets: Iterator[av.Packet], path: object
) -> Iterator[tuple[av.Packet, list[av.VideoFrame]]]:
    """Each packet and the frames that decode with it. InputError where their size changes."""
    first: tuple[int, int] | None = None
    count = 0
    for packet in packets:
        try:
            frames = packet.decode()
        except av.FFmpegError:  # this packet is lost; the next may decode
            frames = []
        for frame in frames:
            size = orientation_of(frame).upright_size(frame.width, frame.height)
            first = first or size
            if size != first:
                raise InputError(
                    f"{path}: its frames change their size, from {first[0]}x{first[1]} to "
                    f"{size[0]}x{size[1]} at frame {count}; one size is expected"
                )
            count += 1
        yield packet, frames


def _frames_by_time(times: list[float | None], duration: float) -> int:
    """How many frames the video had, by its clock; 0 where that cannot be told.

    A damaged Matroska or transport stream drops frames without a word. At a constant rate the gaps
    show it; at a variable one nothing does.
    """
    known = [time for time in times if time is not None]
    if len(known) < max(len(times), 3):
        return 0
    steps = np.diff(np.sort(np.array(known)))
    step = np.median(steps)
    if step <= 0 or np.mean(np.abs(steps / step - 1) < 0.1) < 0.8:
        return 0
    return round(max(max(known) - min(known) + step, duration) / step)
