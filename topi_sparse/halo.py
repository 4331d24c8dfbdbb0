"""The padding around the planes of a packed tensor, written by the kernel that writes these."""

from __future__ import annotations

import tvm
from tvm.tirx.script.builder import ir as T

from topi_sparse.layout import PackedLayout
from topi_sparse.prim_func import spatial

# The name of the block, for schedules.
HALO = "halo"


def fill_halo(layout: PackedLayout, data: tuple[int, ...], dtype: str, y) -> None:
    """Block "halo": the layout's fill around ``y`` (B, C, D, H, W), plane by plane."""
    if not (layout.halo_h or layout.halo_w):
        return
    batch, blocks, depth, rows, breadth, c_block = layout.shape(data)
    fill = T.Broadcast(tvm.tirx.const(layout.fill, dtype), c_block)

    def store(row, column) -> None:
        T.buffer_store(y, fill, [n, block, d, row, column, T.Ramp(0, 1, c_block)])

    with T.grid(batch, blocks, depth) as loops, T.sblock(HALO):
        n, block, d = spatial((batch, blocks, depth), loops)
        T.reads()
        T.writes(y[n, block, d, 0:rows, 0:breadth, 0:c_block])
        with T.serial(0, breadth) as column:
            for row in (*range(layout.halo_h), *range(rows - layout.halo_h, rows)):
                store(row, column)
        with T.serial(layout.halo_h, rows - layout.halo_h) as row:
            for column in (*range(layout.halo_w), *range(breadth - layout.halo_w, breadth)):
                store(row, column)
