"""Pixels of decoded frames -> what a model takes: pieces of a size, colours of a scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def centre_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """The middle size x size of [..., height, width, channels], as a view."""
    top, left = ((extent - size) // 2 for extent in pixels.shape[-3:-1])
    return pixels[..., top : top + size, left : left + size, :]


def crops_of(pixels: np.ndarray, size: int, crops: int) -> list[np.ndarray]:
    """Views size x size of [..., height, width, channels], along the longer side.

    One is in the middle, three reach from one end to the other.
    """
    if crops == 1:
        return [centre_crop(pixels, size)]
    height, width = pixels.shape[-3:-1]
    views = []
    for share in np.linspace(0, 1, crops):
        down, across = (share, 0.5) if height > width else (0.5, share)
        top, left = int((height - size) * down), int((width - size) * across)
        views.append(pixels[..., top : top + size, left : left + size, :])
    return views


def normalise(
    pixels: np.ndarray,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    colour_order: str = "rgb",
) -> np.ndarray:
    """[..., frames, height, width, RGB] of 0..255 -> float32 [..., 3, frames, height, width].

    ``mean`` and ``std`` are of red, green and blue; the channels come out in ``colour_order``.
    """
    if colour_order == "bgr":
        pixels, mean, std = pixels[..., ::-1], mean[::-1], std[::-1]
    scale = 1 / (255 * np.asarray(std, np.float32))
    shift = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
    planes = np.moveaxis(pixels, -1, -4).astype(np.float32, order="C")
    planes *= scale.reshape(3, 1, 1, 1)
    planes -= shift.reshape(3, 1, 1, 1)
    return planes
