"""Where a check looks: positions of a layer's output, and what their windows read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from topi_sparse.cpu.kgs_conv3d import KGSConv3d

# Positions that are computed again; each is a sum over a whole window.
POSITIONS = 256


def positions(conv: KGSConv3d, seed: int) -> Iterator[tuple[int, ...]]:
    """(b, m, d, h, w) of the output, drawn by ``seed``."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, extent, POSITIONS).tolist() for extent in conv.out]
    return zip(*drawn, strict=True)


def window(conv: KGSConv3d, at: Sequence[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """By axis, the places of the input that output (d, h, w) reads, and their (kd, kh, kw)."""
    taken, kernel = [], []
    for axis, place in enumerate(at):
        first = place * conv.stride[axis] - conv.padding[axis]
        places = first + np.arange(conv.kernel[axis]) * conv.dilation[axis]
        inside = (places >= 0) & (places < conv.data[2 + axis])
        taken.append(places[inside])
        kernel.append(np.flatnonzero(inside))
    return taken, kernel
