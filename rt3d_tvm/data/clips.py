"""Real video files -> normalised clips, frame by frame: memory does not grow with the video."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from rt3d_tvm.arguments import as_path
from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
from rt3d_tvm.data.orientation import orientation_of
from rt3d_tvm.data.pixels import crops_of, normalise
from rt3d_tvm.data.video_file import VideoSource, count_frames, frames_of, promised_frames
from rt3d_tvm.errors import InputError

# The longer side of a frame to the shorter: of more, a crop would show next to nothing, cut from a
# frame that takes gigabytes.
_MOST_RATIO = 100


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """Clips as float32 (clips x crops, 3, frames, size, size), and what a user should know of them.

    The crops of one clip follow each other, as in a testing item of `rt3d_tvm.data.datasets`.
    """

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
    crops: int = 1,
    stride: int = 1,
    mean: Sequence[float] = KINETICS_MEAN,
    std: Sequence[float] = KINETICS_STD,
    colour_order: str = "rgb",
) -> ClipBatch:
    """Decode a video and sample evenly spaced clips from it; `Preprocessing` says what all mean.

    A clip is ``frames`` frames, ``stride`` apart. Each is turned upright, resized (its short side
    to ``resize`` pixels, or to just that height and width), cropped to ``size`` x ``size`` at
    ``crops`` places and normalised by ``mean`` and ``std`` (RGB, scale 0 to 1). One clip is taken
    from the middle; several reach from the first frame to the last. A video too short repeats its
    last frame, a damaged one gives the frames that decode: ``notes`` says so.

    Raises InputError for a file that is missing, is no video, has no frame that decodes, or frames
    of several sizes, or frames that cannot be resized so. No other file is opened, whatever the
    name or the file says.
    """
    check_sampling(frames=frames, size=size, resize=resize, clips=clips, stride=stride)
    path = as_path(path, "path")
    started = time.perf_counter()
    # Two passes: only the first tells how many frames decode, and so which are wanted, and
    # keeping them all would need memory for the whole video.
    source = count_frames(path)
    # As in `read_frames`: where the file promises more or less than decodes, both take the same.
    positions, missing = spread_positions(promised_frames(path), frames, clips, stride)
    if positions.max() >= source.frames:
        positions, missing = spread_positions(source.frames, frames, clips, stride)
    chosen, preprocess = _pick_crops(source, np.unique(positions), resize, size, crops)
    decoded = time.perf_counter()
    # (clips, frames, crops, size, size, 3): the frames of one crop belong together.
    pixels = np.moveaxis(_stack(chosen, positions), 2, 1)
    array = normalise(pixels, mean=mean, std=std, colour_order=colour_order)
    array = array.reshape(-1, *array.shape[2:])
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
    path = as_path(path, "path")
    promised = available = promised_frames(path)
    while True:
        positions = choose(available)
        chosen, decoded = _pick(path, np.unique(positions), resize)
        if decoded is None:
            return _stack(chosen, positions)
        if decoded < max(min(at_least, promised), 1):
            raise InputError(
                f"{path}: damaged: {decoded} of its {promised} frames decode; at least "
                f"{at_least} are needed"
            )
        available = decoded


def _pick_crops(
    source: VideoSource,
    wanted: np.ndarray,
    resize: int | tuple[int, int],
    size: int,
    crops: int,
) -> tuple[dict[int, np.ndarray], float]:
    """The crops of the wanted frames, in rising order; and the seconds that resizing them took."""
    chosen: dict[int, np.ndarray] = {}
    reformatter = av.video.reformatter.VideoReformatter()
    seconds, index = 0.0, -1
    for index, frame in enumerate(frames_of(source.path)):
        if index == wanted[len(chosen)]:
            begun = time.perf_counter()
            pixels = upright_pixels(frame, resize, reformatter, source.path)
            chosen[index] = np.stack(crops_of(pixels, size, crops))
            seconds += time.perf_counter() - begun
            if len(chosen) == len(wanted):
                return chosen, seconds
    raise InputError(
        f"{source.path}: damaged: {source.frames} of its frames decoded at first, then "
        f"{index + 1}; or it was changed meanwhile"
    )


def _pick(
    path: Path, wanted: np.ndarray, resize: int | tuple[int, int]
) -> tuple[dict[int, np.ndarray], int | None]:
    """The wanted frames, in rising order; if not all are there, how many frames there are."""
    chosen: dict[int, np.ndarray] = {}
    reformatter = av.video.reformatter.VideoReformatter()
    index = -1
    for index, frame in enumerate(frames_of(path, threads=1)):
        if index == wanted[len(chosen)]:
            chosen[index] = upright_pixels(frame, resize, reformatter, path)
            if len(chosen) == len(wanted):
                return chosen, None
    return chosen, index + 1


def _stack(chosen: dict[int, np.ndarray], positions: np.ndarray) -> np.ndarray:
    frames = np.stack([chosen[position] for position in positions.ravel().tolist()])
    return frames.reshape(*positions.shape, *frames.shape[1:])


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


def upright_pixels(
    frame: av.VideoFrame,
    resize: int | tuple[int, int],
    reformatter: av.video.reformatter.VideoReformatter,
    path: object,
) -> np.ndarray:
    """One frame, upright and resized: uint8 (height, width, 3); messages call it ``path``."""
    # A phone stores what its sensor saw, and how the picture is to be turned and mirrored.
    orientation = orientation_of(frame)
    what = f"{path}: frames of {frame.width}x{frame.height}"
    if isinstance(resize, int):
        short, long = sorted((frame.width, frame.height))
        if long > _MOST_RATIO * short:
            raise InputError(f"{what}: sides of at most {_MOST_RATIO} to 1 are accepted")
        width, height = (
            max(resize, round(s * resize / short)) for s in (frame.width, frame.height)
        )
    else:
        width, height = orientation.upright_size(resize[1], resize[0])
    try:
        # Starting threads for each frame would take longer than the small frames of a clip do.
        resized = reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="BILINEAR", threads=1
        ).to_ndarray()
    except av.FFmpegError as error:
        raise InputError(
            f"{what} cannot be resized to {width}x{height}: {error.strerror}"
        ) from error
    return orientation.upright(resized)


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
