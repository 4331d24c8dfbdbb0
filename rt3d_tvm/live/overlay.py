"""A video with the answers drawn into it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rt3d_tvm.classify import Prediction
from rt3d_tvm.data.generate import ENCODER
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import whole_file

_FPS = 30.0
# A line of text as a part of the picture's shorter side, and its least in pixels.
_LINE, _LEAST = 0.06, 10
# How opaque the shade is, and all letters but the first line's: on white both are read well.
_SHADE, _FAINT = 180, 210


class Overlay:
    """Pictures with labels, one after the other, into an open container."""

    def __init__(self, container: av.container.OutputContainer, fps: float | None) -> None:
        self._container, self._fps = container, fps or _FPS
        self._stream: av.VideoStream | None = None

    def add(self, picture: np.ndarray, top: Sequence[Prediction]) -> None:
        """Add one picture, uint8 (height, width, 3), with the answers of now."""
        height, width = (side - side % 2 for side in picture.shape[:2])
        if self._stream is None:
            rate = Fraction(self._fps).limit_denominator(1001)
            self._stream = self._container.add_stream(ENCODER, rate=rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
        drawn = labelled(picture[:height, :width], top)
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(drawn, format="rgb24")))

    def end(self) -> None:
        """Write what the encoder still has."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())

    @property
    def is_empty(self) -> bool:
        """Whether no picture was added."""
        return self._stream is None


@contextlib.contextmanager
def overlay(path: Path, *, fps: float | None) -> Iterator[Overlay]:
    """An MP4 that appears whole when the block ends; ``fps``: of its pictures, None: 30.

    InputError where nothing was added, and where this PyAV has no H.264 encoder.
    """
    with whole_file(path) as temporary, temporary.open("wb") as file:
        try:
            with av.open(file, "w", format="mp4") as container:
                writer = Overlay(container, fps)
                yield writer
                writer.end()
        except av.codec.codec.UnknownCodecError as error:
            raise InputError(f"this PyAV ({av.__version__}) has no encoder {ENCODER}") from error
        if writer.is_empty:
            raise InputError(f"{path}: nothing to draw on: no frame came")


def labelled(picture: np.ndarray, top: Sequence[Prediction]) -> np.ndarray:
    """A copy of a picture with a line for each answer in its lower left, on a shade.

    A name that is too long for the picture loses its end. Of more answers than half of the picture
    holds the least likely are left out.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    height = max(round(_LINE * min(image.size)), _LEAST)
    font, pad, line = ImageFont.load_default(size=height), height // 2, round(1.35 * height)
    shown = top[: max((image.height // 2 - 2 * pad) // line, 1)]
    if not shown:
        return np.asarray(image)
    draw = ImageDraw.Draw(image, "RGBA")
    shares = draw.textlength("100%", font=font)
    room = image.width - shares - 3 * pad
    names = [_fitting(g.label or f"class {g.index}", room, font) for g in shown]
    wide = max(draw.textlength(name, font=font) for name in names)
    high = line * len(shown) + 2 * pad
    corner = (0, image.height - high)
    draw.rectangle((*corner, shares + wide + 3 * pad, image.height), fill=(0, 0, 0, _SHADE))
    for number, (guess, name) in enumerate(zip(shown, names, strict=True)):
        # All letters stand on one line, whatever their height.
        base = corner[1] + pad + line * number + height
        fill = (255, 255, 255, 255 if number == 0 else _FAINT)
        draw.text((pad + shares, base), f"{guess.probability:.0%}", fill, font, anchor="rs")
        draw.text((2 * pad + shares, base), name, fill, font, anchor="ls")
    return np.asarray(image.convert("RGB"))


def _fitting(text: str, room: float, font: ImageFont.FreeTypeFont) -> str:
    """As much of a text as there is room for."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(f"{text}…") > room:
        text = text[:-1]
    return f"{text.rstrip()}…"
