"""Real video files -> normalised clips, frame by frame: memory does not grow with the video."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
from rt3d_tvm.errors import InputError


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


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Clips as float32 (clips, 3, frames, size, size), and what a user should know of them."""

    array: np.ndarray
    source: VideoSource
    notes: tuple[str, ...]
    decode_ms: float
    preprocess_ms: float


def read_clips(
    path: Path,
    *,
    size: int,
    resize: int | tuple[int, int],
    frames: int = 16,
    clips: int = 1,
    stride: int = 1,
    mean: Sequence[float] = KINETICS_MEAN,
    std: Sequence[float] = KINETICS_STD,
) -> ClipBatch:
    """Decode a video and sample evenly spaced clips from it.

    A clip is ``frames`` frames, ``stride`` apart. Each is turned upright, resized (its short side
    to ``resize`` pixels, or to just that height and width), cropped to the ``size`` x ``size``
    centre and normalised by ``mean`` and ``std`` (RGB, scale 0 to 1). One clip is taken from the
    middle; several reach from the first frame to the last. A video too short repeats its last
    frame, a damaged one gives the frames that decode: ``notes`` says so.

    Raises InputError for a file that is missing, is no video, or has no frame that decodes.
    """
    check_sampling(frames=frames, size=size, resize=resize, clips=clips, stride=stride)
    path = Path(path)
    started = time.perf_counter()
    # Two passes: only the first tells how many frames decode, and so which are wanted, and
    # keeping them all would need memory for the whole video.
    source = _count(path)
    positions, missing = spread_positions(source.frames, frames, clips, stride)
    wanted = set(positions.ravel().tolist())
    chosen = {}
    reformatter = av.video.reformatter.VideoReformatter()
    preprocess = 0.0
    for index, frame in enumerate(_decode(path)):
        if index in wanted:
            begun = time.perf_counter()
            chosen[index] = centre_crop(_pixels(frame, resize, reformatter), size).copy()
            preprocess += time.perf_counter() - begun
            if len(chosen) == len(wanted):
                break
    decoded = time.perf_counter()
    array = normalise(_stack(chosen, positions), mean=mean, std=std)
    finished = time.perf_counter()
    return ClipBatch(
        array=array,
        source=source,
        notes=tuple(_notes(source, missing, frames=frames, stride=stride)),
        decode_ms=(decoded - started - preprocess) * 1e3,
        preprocess_ms=(finished - decoded + preprocess) * 1e3,
    )


def read_frames(
    path: Path,
    *,
    choose: Callable[[int], np.ndarray],
    resize: int | tuple[int, int],
    at_least: int = 1,
) -> np.ndarray:
    """Frames of a video as uint8 (*positions, height, width, 3), upright and resized, not cropped.

    ``choose`` maps a number of frames to the positions wanted, all below it. It is asked again if
    fewer frames decode than the file promises, which only decoding tells; decoding stops at the
    last position. InputError where `read_clips` has one, and for a damaged file: one that promises
    ``at_least`` frames and has fewer that decode.
    """
    path = Path(path)
    promised = available = promised_frames(path)
    while True:
        positions = choose(available)
        chosen, decoded = _pick(path, set(positions.ravel().tolist()), resize)
        if decoded is None:
            return _stack(chosen, positions)
        if decoded < max(min(at_least, promised), 1):
            raise InputError(
                f"{path}: damaged: {decoded} of its {promised} frames decode; at least "
                f"{at_least} are needed"
            )
        available = decoded


def promised_frames(path: Path) -> int:
    """How many frames a video says it has, at least 1: nothing is decoded."""
    container, stream = _open(path)
    with container:
        count = stream.frames or sum(
            packet.size > 0 and not packet.is_discard for packet in _packets(container, stream)
        )
    return max(count, 1)


def _pick(
    path: Path, wanted: set[int], resize: int | tuple[int, int]
) -> tuple[dict[int, np.ndarray], int | None]:
    """The wanted frames; if not all are there, how many frames there are."""
    chosen: dict[int, np.ndarray] = {}
    reformatter = av.video.reformatter.VideoReformatter()
    index = -1
    for index, frame in enumerate(_decode(path, threads=1)):
        if index in wanted:
            chosen[index] = _pixels(frame, resize, reformatter)
            if len(chosen) == len(wanted):
                return chosen, None
    return chosen, index + 1


def _stack(chosen: dict[int, np.ndarray], positions: np.ndarray) -> np.ndarray:
    frames = np.stack([chosen[position] for position in positions.ravel().tolist()])
    return frames.reshape(*positions.shape, *frames.shape[1:])


def normalise(pixels: np.ndarray, *, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """[..., frames, height, width, 3] of 0..255 -> float32 [..., 3, frames, height, width]."""
    scale = 1 / (255 * np.asarray(std, np.float32))
    shift = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
    planes = np.moveaxis(pixels, -1, -4).astype(np.float32, order="C")
    planes *= scale.reshape(3, 1, 1, 1)
    planes -= shift.reshape(3, 1, 1, 1)
    return planes


def check_sampling(*, resize: int | tuple[int, int], **values: int) -> None:
    """InputError for a size or count below 1, or a ``size`` that ``resize`` is too small for."""
    values["resize"] = resize if isinstance(resize, int) else min(resize)
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name} {value}: at least 1 is accepted")
    if values["size"] > values["resize"]:
        raise InputError(
            f"size {values['size']}: at most resize, {values['resize']}, is accepted: the crop is "
            "cut from the resized frame"
        )


def _open(path: Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    if not path.is_file():
        what = "not a file" if path.exists() else "no such file"
        raise InputError(f"{path}: {what}; a video file is expected")
    try:
        # The whitelist keeps a playlist from making the decoder open an address on the network.
        container = av.open(str(path.resolve()), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path}: not a video file, or damaged at its start: {reason}") from error
    videos = [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic  # the cover of a song
    ]
    # FFmpeg's "tty" plays any text file as a video of a terminal.
    if not videos or container.format.name == "tty":
        kinds = sorted({stream.type for stream in container.streams}) or ["none"]
        streams = "text" if container.format.name == "tty" else ", ".join(kinds)
        container.close()
        raise InputError(f"{path}: no video stream (streams: {streams}); a video is expected")
    return container, videos[0]


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets that can be read; a file damaged beyond reading ends early."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        yield packet


def _frames_of(packet: av.Packet) -> list[av.VideoFrame]:
    try:
        return packet.decode()
    except av.FFmpegError:  # this packet is lost; the next may decode
        return []


def _decode(path: Path, *, threads: int = 0) -> Iterator[av.VideoFrame]:
    """Every frame that decodes; ``threads`` 0 leaves their number to FFmpeg."""
    container, stream = _open(path)
    with container:
        stream.codec_context.thread_count = threads
        for packet in _packets(container, stream):
            yield from _frames_of(packet)


def _count(path: Path) -> VideoSource:
    container, stream = _open(path)
    with container:
        packets = trimmed = damaged = 0
        times = []
        for packet in _packets(container, stream):
            packets += packet.size > 0
            trimmed += packet.is_discard  # before the cut that an edit list makes: never shown
            for frame in _frames_of(packet):
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


def _frames_by_time(times: list[float | None], duration: float) -> int:
    """How many frames the video had, by its clock; 0 where that cannot be told.

    A damaged Matroska or transport stream drops frames without a word. At a constant rate the gaps
    show it; at a variable one nothing does.
    """
    if None in times or len(times) < 3:
        return 0
    steps = np.diff(np.sort(np.array(times)))
    step = np.median(steps)
    if step <= 0 or np.mean(np.abs(steps / step - 1) < 0.1) < 0.8:
        return 0
    return round(max(max(times) - min(times) + step, duration) / step)


def spread_positions(
    available: int, frames: int, clips: int, stride: int
) -> tuple[np.ndarray, int]:
    """Indices of frames (clips, frames), and how many of a clip repeat the last one.

    One clip lies in the middle, several reach from the first frame to the last.
    """
    span = (frames - 1) * stride + 1
    free = max(available - span, 0)
    starts = np.array([free // 2]) if clips == 1 else np.linspace(0, free, clips).astype(int)
    positions = starts[:, None] + np.arange(frames) * stride
    return positions.clip(max=available - 1), int((positions[0] >= available).sum())


def _pixels(
    frame: av.VideoFrame,
    resize: int | tuple[int, int],
    reformatter: av.video.reformatter.VideoReformatter,
) -> np.ndarray:
    """One frame, upright: uint8 (height, width, 3)."""
    # A phone stores what its sensor saw and how it was held; counterclockwise, like rot90.
    quarters = round(frame.rotation / 90)
    if isinstance(resize, int):
        scale = resize / min(frame.width, frame.height)
        height, width = (max(resize, round(s * scale)) for s in (frame.height, frame.width))
    else:
        height, width = resize if quarters % 2 == 0 else resize[::-1]
    # Starting threads for each frame would take longer than the small frames of a clip do.
    resized = reformatter.reformat(
        frame, width=width, height=height, format="rgb24", interpolation="BILINEAR", threads=1
    )
    pixels = resized.to_ndarray()
    return np.rot90(pixels, quarters)


def centre_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """The middle size x size of [..., height, width, channels], as a view."""
    top, left = ((extent - size) // 2 for extent in pixels.shape[-3:-1])
    return pixels[..., top : top + size, left : left + size, :]


def _notes(source: VideoSource, missing: int, *, frames: int, stride: int) -> Iterator[str]:
    if missing:
        apart = "" if stride == 1 else f", {stride} apart"
        yield (
            f"{source.path}: {source.frames} frames, a clip has {frames}{apart}: the last one is "
            f"repeated {missing} times"
        )
    if source.lost:
        yield (
            f"{source.path}: {source.lost} frames are lost, {source.frames} of "
            f"{source.frames + source.lost} decode and are used"
        )
    if source.damaged:
        yield f"{source.path}: {source.damaged} frames decode with errors and are used"
