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
    # What the file promises says which frames are wanted, so that one pass counts and cuts. As in
    # `read_frames`: where it promises more or less than decodes, both take the same.
    positions, missing = spread_positions(promised_frames(path), frames, clips, stride)
    cut = _Cut(path, positions, resize=resize, size=size, crops=crops)
    source = count_frames(path, seen=cut.take)
    if positions.max() >= source.frames:
        positions, missing = spread_positions(source.frames, frames, clips, stride)
        cut.want(positions)
    cut.finish(source.frames)
    decoded = time.perf_counter()
    # (clips, frames, crops, size, size, 3): the frames of one crop belong together.
    pixels = np.moveaxis(_stack(cut.chosen, positions), 2, 1)
    array = normalise(pixels, mean=mean, std=std, colour_order=colour_order)
    array = array.reshape(-1, *array.shape[2:])
    finished = time.perf_counter()
    return ClipBatch(
        array=array,
        source=source,
        notes=tuple(_notes(source, missing, frames=frames, stride=stride)),
        decode_ms=(decoded - started - cut.seconds) * 1e3,
        preprocess_ms=(finished - decoded + cut.seconds) * 1e3,
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
    chosen: dict[int, np.ndarray] = {}
    while True:
        positions = choose(available)
        decoded = _pick(path, positions, resize, chosen)
        if decoded is None:
            return _stack(chosen, positions)
        if decoded < max(min(at_least, promised), 1):
            raise InputError(
                f"{path}: damaged: {decoded} of its {promised} frames decode; at least "
                f"{at_least} are needed"
            )
        available = decoded


class _Cut:
    """The crops of the wanted frames of a video, and the seconds that resizing them took."""

    def __init__(
        self,
        path: Path,
        positions: np.ndarray,
        *,
        resize: int | tuple[int, int],
        size: int,
        crops: int,
    ) -> None:
        self.chosen: dict[int, np.ndarray] = {}
        self.seconds = 0.0
        self._path, self._resize, self._size, self._crops = path, resize, size, crops
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._error: InputError | None = None
        self.want(positions)

    def want(self, positions: np.ndarray) -> None:
        """Take these frames, of which those that are there already are kept."""
        self._wanted = set(positions.ravel().tolist()) - self.chosen.keys()

    def take(self, index: int, frame: av.VideoFrame) -> None:
        """Resize and cut a frame, if it is wanted."""
        if index not in self._wanted:
            return
        begun = time.perf_counter()
        try:
            pixels = upright_pixels(frame, self._resize, self._reformatter, self._path)
            self.chosen[index] = np.stack(crops_of(pixels, self._size, self._crops))
        except InputError as error:
            # The frames that are still to come may show what is wrong with the file itself.
            self._error = self._error or error
        self._wanted.remove(index)
        self.seconds += time.perf_counter() - begun

    def finish(self, decoded: int) -> None:
        """Decode what is still wanted once more, of ``decoded`` frames, and say what is wrong."""
        found = 0
        frames = frames_of(self._path) if self._wanted and self._error is None else ()
        for found, frame in enumerate(frames, 1):
            self.take(found - 1, frame)
            if not self._wanted:
                break
        if self._error is not None:
            raise self._error
        if self._wanted:
            raise InputError(
                f"{self._path}: damaged: {decoded} of its frames decoded at first, then {found}; "
                "or it was changed meanwhile"
            )


def _pick(
    path: Path,
    positions: np.ndarray,
    resize: int | tuple[int, int],
    chosen: dict[int, np.ndarray],
) -> int | None:
    """Add the frames that ``chosen`` lacks; if not all are there, how many frames there are."""
    missing = set(positions.ravel().tolist()) - chosen.keys()
    if not missing:
        return None
    reformatter = av.video.reformatter.VideoReformatter()
    count = 0
    for count, frame in enumerate(frames_of(path, threads=1), 1):
        if count - 1 in missing:
            chosen[count - 1] = upright_pixels(frame, resize, reformatter, path)
            missing.remove(count - 1)
            if not missing:
                return None
    return count


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
