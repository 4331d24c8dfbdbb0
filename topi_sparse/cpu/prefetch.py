"""Hints to bring cache lines into L1 before a register tile of kgs_conv3d needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm.tirx.script.builder import ir as T

from topi_sparse.cpu.register_tile import CACHE_LINE
from topi_sparse.layout import PackedLayout, ceil_div

if TYPE_CHECKING:
    from topi_sparse.cpu.kgs_conv3d import KGSConv3d
    from topi_sparse.cpu.kgs_tile import At, RegisterTile


def fetch(tile: RegisterTile, buffer, layout: PackedLayout, *, write: bool) -> None:
    """Ask for the tile's lines of a tensor of the output's shape."""
    line = max(CACHE_LINE // (layout.c_block * np.dtype(tile.conv.dtype).itemsize), 1)
    line = ceil_div(line, tile.conv.interleave[2])
    for b in range(0, tile.rows, layout.c_block):
        for i in range(0, tile.columns, line):
            index = tile.place(layout, i, b)
            T.evaluate(_prefetch(buffer[tuple(index)], write=write))


def fetch_next_inputs(conv: KGSConv3d, x, at: At, columns: int) -> None:
    """Ask for the lines that the next strip reads, or at the end of a row the next row's first.

    With a window of one location along H and W a tile reads a few lines in each of many planes, and
    each for a few multiply-adds: there is no time to wait for them, and no hardware prefetcher
    follows so many streams. (Where channels share the vectors, a row block takes less time, and the
    processor runs ahead far enough by itself.)
    """
    (n, h), d, s, c = at.x, at.d, at.strip, at.c
    line = max(CACHE_LINE // (conv.x.c_block * np.dtype(conv.dtype).itemsize), 1)
    blocks = ceil_div(conv.tile.chunk * conv.group.g_n, conv.x.c_block)
    first, end = c * blocks, conv.x.shape(conv.data)[1]
    row = h * conv.stride[1] + conv.x.halo_h - conv.padding[1]
    left = (s + 1) * min(conv.tile.width, conv.out[4])
    with (
        T.serial(first, T.min(first + blocks, end)) as block,
        T.serial(*conv.valid_locations(d)) as kd,
    ):
        plane = d * conv.stride[0] + kd * conv.dilation[0] - conv.padding[0]
        for i in range(0, columns, max(line // conv.stride[2], 1)):
            column = (left + i) * conv.stride[2] + conv.x.halo_w - conv.padding[2]
            T.evaluate(_prefetch(x[n, block, plane, row, column, 0], write=False))


def _prefetch(element, *, write: bool):
    """A hint to bring the cache line of an element into L1, and to own it if it will be written."""
    l1, data = 3, 1
    return tvm.tirx.call_intrin(
        "void", "tirx.prefetch", tvm.tirx.address_of(element), int(write), l1, data
    )
