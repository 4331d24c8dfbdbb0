"""Data sets of videos for training and testing with a plain torch DataLoader.

What an item holds depends on (seed, epoch, index) alone, not on the number of workers or on what
was read before: a training that resumes at an epoch sees what it would have seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from rt3d_tvm.data.clips import (
    check_sampling,
    promised_frames,
    read_frames,
    spread_positions,
)
from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
from rt3d_tvm.data.lists import VideoList, read_list, refuse_missing
from rt3d_tvm.data.pixels import crops_of, normalise
from rt3d_tvm.data.preprocessing import Preprocessing
from rt3d_tvm.data.skipped import SkipLog
from rt3d_tvm.errors import InputError

# The label of a testing item whose video is damaged: evaluation leaves it out.
SKIPPED = -1
# In training, how many other videos are tried instead of a damaged one.
_REPLACEMENTS = 50


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How clips are cut from a video.

    A clip is ``frames`` frames, ``stride`` apart, at ``size`` x ``size``. Frames are resized to
    ``resize`` (the short side, or height and width) first. In training the window in time, the
    place of the crop, its side (``resize`` times one of ``scales``) and, if ``flip``, its mirror
    image are drawn. In testing ``clips_per_video`` windows, evenly spaced, are each cropped at
    ``crops`` places along the longer side: 1 in the middle, 3 from one end to the other.
    """

    frames: int
    size: int
    resize: int | tuple[int, int]
    stride: int
    scales: tuple[float, ...]
    flip: bool
    clips_per_video: int
    crops: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colour_order: str = "rgb"

    def __post_init__(self) -> None:
        check_sampling(
            frames=self.frames,
            size=self.size,
            resize=self.resize,
            stride=self.stride,
            clips_per_video=self.clips_per_video,
        )
        if self.crops not in (1, 3):
            raise InputError(f"crops {self.crops}: 1 or 3 is accepted")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise InputError(f"scales {self.scales}: above 0 and at most 1 is accepted")
        self.preprocessing()  # what is trained with can be stored with the model

    def preprocessing(self) -> Preprocessing:
        """How testing cuts and normalises a clip; InputError for what makes no sense."""
        return Preprocessing(
            frames=self.frames,
            size=self.size,
            resize=self.resize,
            mean=self.mean,
            std=self.std,
            colour_order=self.colour_order,
            stride=self.stride,
            clips=self.clips_per_video,
            crops=self.crops,
        )


@dataclass(frozen=True, kw_only=True)
class _Defaults:
    """What suits a kind of data set; ``margin`` is resize / size."""

    flip: bool
    margin: float
    scales: tuple[float, ...]
    clips_per_video: int
    crops: int


_FILMED = _Defaults(
    flip=True, margin=128 / 112, scales=(1.0, 0.875, 0.75), clips_per_video=10, crops=3
)
# A mirror image turns a class of the generated set into another: left is right, clockwise is
# counterclockwise. Its scenes fill the frame, and 24 frames hold hardly more than one clip.
_GENERATED = _Defaults(flip=False, margin=1.0, scales=(1.0,), clips_per_video=1, crops=1)
# Few videos, on a machine that has other things to do: testing 30 clips of each would take longer
# than training on one.
_OWN = _Defaults(flip=True, margin=128 / 112, scales=(1.0, 0.875, 0.75), clips_per_video=3, crops=1)
_DEFAULTS = {
    **dict.fromkeys(("ucf101", "hmdb51", "kinetics"), _FILMED),
    "motion": _GENERATED,
    **dict.fromkeys(("folder", "csv"), _OWN),
}


def open_dataset(
    root: Path,
    *,
    training: bool,
    kind: str = "auto",
    split: str = "train",
    fold: int = 1,
    frames: int = 16,
    size: int = 112,
    resize: int | tuple[int, int] | None = None,
    stride: int = 1,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    clips_per_video: int | None = None,
    crops: int | None = None,
    mean: Sequence[float] = KINETICS_MEAN,
    std: Sequence[float] = KINETICS_STD,
    colour_order: str = "rgb",
    seed: int = 0,
    cache: bool = False,
    cache_bytes: int = 4 << 30,
    leave_out_missing: bool = False,
) -> VideoDataset:
    """Open a split of UCF101, HMDB51, Kinetics, a generated set or your own; it opens no video yet.

    See `Sampling` for what cuts the clips; None is what suits the kind. ``cache`` keeps decoded
    frames in memory, up to ``cache_bytes`` in each process that reads. InputError as in
    `read_list`, for sampling that makes no sense, and for listed videos that are not there unless
    ``leave_out_missing`` (`VideoDataset.missing` then tells them).
    """
    found = read_list(root, kind=kind, split=split, fold=fold)
    if not leave_out_missing:
        refuse_missing(found, Path(root))
    usual = _DEFAULTS[found.kind]
    sampling = Sampling(
        frames=frames,
        size=size,
        resize=round(size * usual.margin) if resize is None else resize,
        stride=stride,
        scales=tuple(usual.scales if scales is None else scales),
        flip=usual.flip if flip is None else flip,
        clips_per_video=usual.clips_per_video if clips_per_video is None else clips_per_video,
        crops=usual.crops if crops is None else crops,
        mean=tuple(mean),
        std=tuple(std),
        colour_order=colour_order,
    )
    return VideoDataset(
        found,
        sampling,
        training=training,
        seed=seed,
        cache_bytes=cache_bytes if cache else 0,
    )


class VideoDataset(Dataset):
    """Clips of the videos of a `VideoList`.

    A training item is (clip float32 [3, frames, size, size], class index); a testing item is
    (clips float32 [clips_per_video x crops, 3, frames, size, size], class index).

    A damaged video is warned of once and counted in `skipped`, whichever process met it. In
    training another video of the split takes its place; in testing its item is zeros with the
    class index `SKIPPED`. InputError if none of many videos in a row can be read.
    """

    def __init__(
        self,
        videos: VideoList,
        sampling: Sampling,
        *,
        training: bool,
        seed: int = 0,
        cache_bytes: int = 0,
    ) -> None:
        if not videos.videos:
            raise InputError(f"none of the {len(videos.missing)} listed videos is there")
        if seed < 0:
            raise InputError(f"seed {seed}: at least 0 is accepted")
        self.kind = videos.kind
        self.classes = videos.classes
        self.videos = videos.videos
        self.missing = videos.missing
        self.sampling = sampling
        self.training = training
        self.seed = seed
        # In shared memory, so that workers that outlive an epoch see the next one begin.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._skips = SkipLog()
        self._cache: dict[int, tuple[int, np.ndarray]] = {}
        self._cache_bytes = cache_bytes
        self._cached_bytes = 0
        # Videos that cannot be read as a whole, so that this is not tried in each epoch.
        self._in_parts: set[int] = set()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        index %= len(self)
        return self._training_item(index) if self.training else self._testing_item(index)

    @property
    def preprocessing(self) -> Preprocessing:
        """How a testing item is made: what whoever runs the model has to do as well."""
        return self.sampling.preprocessing()

    @property
    def skipped(self) -> tuple[Path, ...]:
        """The damaged videos met so far."""
        return tuple(self.videos[index][0] for index in self._skips.read())

    @property
    def epoch(self) -> int:
        """The epoch that training items are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw other windows and crops; to be called before each epoch, in the main process."""
        self._epoch.fill_(epoch)

    def _training_item(self, index: int) -> tuple[Tensor, int]:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        for _ in range(1 + _REPLACEMENTS):
            frames = self._frames(index, partial(self._window, place=rng.uniform()))
            if frames is not None:
                return self._augmented(frames, rng), self.videos[index][1]
            index = int(rng.integers(len(self)))
        raise InputError(
            f"{1 + _REPLACEMENTS} videos in a row cannot be read, the last is "
            f"{self.videos[index][0]}; {len(self.skipped)} of {len(self)} are skipped"
        )

    def _testing_item(self, index: int) -> tuple[Tensor, int]:
        cut = self.sampling
        frames = self._frames(
            index, lambda n: spread_positions(n, cut.frames, cut.clips_per_video, cut.stride)[0]
        )
        if frames is None:
            shape = (cut.clips_per_video * cut.crops, 3, cut.frames, cut.size, cut.size)
            return torch.zeros(shape), SKIPPED
        # [crops, clips, frames, size, size, 3], then one clip after the other, crops innermost
        cropped = np.stack(crops_of(frames, cut.size, cut.crops), axis=1)
        clips = self._normalised(cropped)
        return torch.from_numpy(clips.reshape(-1, *clips.shape[2:])), self.videos[index][1]

    def _window(self, available: int, place: float) -> np.ndarray:
        """The frames of the training clip that starts at ``place``, 0 to 1, of what it can."""
        span = (self.sampling.frames - 1) * self.sampling.stride + 1
        start = int(place * (max(available - span, 0) + 1))
        positions = start + np.arange(self.sampling.frames) * self.sampling.stride
        return positions.clip(max=available - 1)

    def _augmented(self, frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        """uint8 (frames, height, width, 3) -> a clip, cropped and flipped at random."""
        cut = self.sampling
        height, width = frames.shape[1:3]
        side = max(round(min(height, width) * rng.choice(cut.scales)), 1)
        top, left = (int(rng.integers(extent - side + 1)) for extent in (height, width))
        frames = frames[:, top : top + side, left : left + side]
        if cut.flip and rng.integers(2):
            frames = frames[:, :, ::-1]
        return _resized(torch.from_numpy(self._normalised(frames)), cut.size)

    def _normalised(self, pixels: np.ndarray) -> np.ndarray:
        cut = self.sampling
        return normalise(pixels, mean=cut.mean, std=cut.std, colour_order=cut.colour_order)

    def _frames(self, index: int, choose: Callable[[int], np.ndarray]) -> np.ndarray | None:
        """The frames at the positions chosen from so many; None, and noted, for a damaged video."""
        cut = self.sampling
        path = self.videos[index][0]
        span = (cut.frames - 1) * cut.stride + 1
        try:
            if index not in self._cache and self._caching and index not in self._in_parts:
                # What cannot be read as a whole may have the frames that are wanted now.
                try:
                    frames = read_frames(path, choose=np.arange, resize=cut.resize, at_least=span)
                    self._keep(index, promised_frames(path), frames)
                except InputError:
                    self._in_parts.add(index)
            if index not in self._cache:
                return read_frames(path, choose=choose, resize=cut.resize, at_least=span)
        except InputError as error:
            self._skips.add(index, str(error))
            return None
        promised, frames = self._cache[index]
        positions = choose(promised)
        if positions.max() >= len(frames):  # as read_frames asks again
            positions = choose(len(frames))
        return frames[positions]

    @property
    def _caching(self) -> bool:
        return self._cached_bytes < self._cache_bytes

    def _keep(self, index: int, promised: int, frames: np.ndarray) -> None:
        self._cache[index] = (promised, frames)
        self._cached_bytes += frames.nbytes
        if not self._caching:
            warnings.warn(
                f"the cache of {self._cache_bytes} bytes is full with {len(self._cache)} of "
                f"{len(self)} videos; the others are decoded each time",
                stacklevel=2,
            )


def _resized(clip: Tensor, size: int) -> Tensor:
    """float32 [3, frames, side, side] -> [3, frames, size, size]."""
    if clip.shape[-1] == size:
        return clip
    return functional.interpolate(
        clip, size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )
