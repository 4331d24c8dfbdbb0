"""Videos made up from a seed: something real to decode where no video is at hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import whole_file

ENCODER = "libx264"
MIN_SIZE = 16


def make_clip(
    path: Path, *, seed: int = 0, frames: int = 32, size: int = 128, fps: int = 25
) -> None:
    """Write an H.264 MP4 of a textured disc that moves and turns over clutter.

    ``size`` is the width and height in pixels, even. The same seed gives the same pictures.
    InputError for a size or count that cannot be encoded, or if this PyAV has no H.264 encoder.
    """
    if size < MIN_SIZE or size % 2:
        raise InputError(f"size {size}: an even number from {MIN_SIZE} on is accepted")
    if frames < 1 or fps < 1:
        raise InputError(f"{frames} frames at {fps} a second: at least 1 of each is accepted")
    rng = np.random.default_rng(seed)
    write_video(path, _pictures(rng, frames, size), fps=fps)


def write_video(
    path: Path,
    pictures: Iterable[np.ndarray],
    *,
    fps: int = 25,
    options: Mapping[str, str] | None = None,
) -> None:
    """Encode pictures, uint8 (height, width, 3) of even extents, as an H.264 MP4.

    ``options`` are the encoder's own. The file appears whole or not at all. InputError if this
    PyAV has no H.264 encoder.
    """
    pictures = iter(pictures)
    first = next(pictures)
    with (
        whole_file(path) as temporary,
        # FFmpeg gets the open file: to it a name with a colon is a protocol.
        temporary.open("wb") as file,
        av.open(file, "w", format="mp4") as container,
    ):
        try:
            stream = container.add_stream(ENCODER, rate=Fraction(fps), options=dict(options or {}))
        except av.codec.codec.UnknownCodecError as error:
            raise InputError(
                f"this PyAV ({av.__version__}) has no encoder {ENCODER}; the wheels of PyAV "
                "have it: pip install av"
            ) from error
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in itertools.chain([first], pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _pictures(rng: np.random.Generator, frames: int, size: int) -> Iterator[np.ndarray]:
    """uint8 (size, size, 3), one after the other."""
    background = clutter(rng, size)
    colours = rng.integers(64, 256, (2, 3))
    start, end = rng.uniform(0.25, 0.75, (2, 2)) * size
    turns = rng.uniform(0.5, 2) * 2 * np.pi
    radius = size / 5
    y, x = np.mgrid[:size, :size]
    for t in np.linspace(0, 1, frames):
        cy, cx = start + (end - start) * t + 0.05 * size * np.sin(2 * np.pi * t)
        angle = turns * t
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        stripes = (along // (size / 16)).astype(int) % 2
        disc = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        yield np.where(disc[..., None], colours[stripes], background).astype(np.uint8)


def clutter(rng: np.random.Generator, size: int) -> np.ndarray:
    """Blocks of three scales on top of each other: edges everywhere, none of them moving."""
    picture = np.zeros((size, size, 3))
    for cells in (4, 8, 16):
        blocks = rng.integers(0, 80, (cells, cells, 3))
        at = np.arange(size) * cells // size
        picture += blocks[at[:, None], at]
    return picture
