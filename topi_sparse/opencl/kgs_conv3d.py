"""opencl_kgs_conv3d: the convolution of kgs_conv3d for GPUs, a register tile per work-item.

The weight format, the packed layout and the loop over kept columns are those of kgs_conv3d. But
work-items compute: each has ``rows_per_item`` filters of a row block at ``width``
output positions of one plane, a vector of accumulators for each, and walks the kept columns of its
row block. Its neighbour has the neighbouring positions and the same columns, so that both read
neighbouring activations and the same weights: nothing has to go through local memory.

Positions are counted along the rows of the input where the kernel moves by one: a work-group then
reads one run of memory however short the rows are, and the few positions between two rows, which
lie in the halo, are computed and not stored.

On a CPU work-items are turns of a loop over vectors. The positions of one work-item are neighbours,
so their activations share cache lines. Each number of them is broadcast from memory. Few
filters may share the lanes with channels, as in kgs_conv3d: each filter's lanes are added up after
the last column.

A kernel may read its input through a texture. It copies the input into one first. The copy moves
each number once; every row block reads it once for each kept location of its window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.cpu.kgs_conv3d import KGSConv3d, parameters
from topi_sparse.halo import fill_halo
from topi_sparse.layout import ceil_div
from topi_sparse.opencl.item_tile import compute_item
from topi_sparse.opencl.texture import (
    BITS,
    fill_texture,
    locations,
    taken_apart,
    why_no_texture,
)
from topi_sparse.opencl.work_item import VECTOR
from topi_sparse.prim_func import begin, spatial
from topi_sparse.windows import whole

# Of activations, in a CPU's caches beside all else: half of what two cores of a Zen 5 have.
CACHED_BYTES = 8 * 1024 * 1024
# The attribute of the PrimFunc under which its own definition stands, as JSON.
OPENCL_ATTRIBUTE = "opencl_kgs_conv3d"


@dataclass(frozen=True, kw_only=True)
class OpenCLKGSConv3d(KGSConv3d):
    """All that defines one opencl_kgs_conv3d kernel; x and y have channel blocks of VECTOR.

    tile            filters in a vector of accumulators (lanes), positions a work-item (width); the
                    chunk holds all channel groups
    rows_per_item   filters per work-item, a divisor of g_m
    accumulate      the type of the accumulators, and of the bias that they start from
    weight_dtype    the type of the stored weights, dtype or accumulate
    texture         whether the input is read through a texture
    """

    name: ClassVar[str] = OPENCL_ATTRIBUTE
    parts: ClassVar[Mapping[str, Callable]] = KGSConv3d.parts

    rows_per_item: int
    accumulate: str = "float32"
    weight_dtype: str = "float32"
    texture: bool = False

    def __post_init__(self) -> None:
        if self.texture and (reason := self.why_no_texture()):
            raise ValueError(f"no texture for its input: {reason}")
        if self.weight_dtype not in (self.dtype, self.accumulate):
            raise ValueError(
                f"weights in {self.weight_dtype}: {self.dtype}, as activations, or "
                f"{self.accumulate}, as sums, is accepted"
            )

    def prim_func(self) -> tvm.tirx.PrimFunc:
        """The kernel that this defines, not scheduled yet."""
        return opencl_kgs_conv3d(self)

    @property
    def row_blocks_last(self) -> bool:
        """Which of a plane's row blocks come next is decided by its work-groups."""
        return False

    def tile_width(self, columns: int) -> int:
        """Positions of a work-item: they go on in the next row."""
        return columns

    @property
    def summed_dtype(self) -> str:
        """The type of the sums."""
        return self.accumulate

    @property
    def item_rows(self) -> int:
        """Filters of a work-item."""
        return self.rows_per_item

    @property
    def reads_texture(self) -> bool:
        """Whether the input is read through a texture."""
        return self.texture

    @property
    def other_types(self) -> dict[str, str]:
        """The types beside ``dtype`` by which its kernel differs from others."""
        return {"accumulate": self.accumulate, "weight_dtype": self.weight_dtype}

    @property
    def argument_types(self) -> dict[str, str]:
        """As in KGSConv3d; what few values are shared by all positions may be more exact."""
        return {**super().argument_types, "blocks": self.weight_dtype, "bias": self.accumulate}

    @property
    def row_multiple(self) -> int:
        """Every row block is whole."""
        return self.group.g_m

    @property
    def along_input(self) -> bool:
        """Whether positions are counted along the input's rows, halo and all.

        Not in a texture, which has rows, and nothing to be read beyond their ends.
        """
        return self.stride[1:] == (1, 1) and not self.texture

    @property
    def row_length(self) -> int:
        """From the first position of a row to that of the next, in positions."""
        return self.x.shape(self.data)[4] if self.along_input else self.out[4]

    @property
    def positions(self) -> int:
        """Positions of a plane that are computed: up to its last one that is stored."""
        return (self.out[3] - 1) * self.row_length + self.out[4]

    @property
    def adjacent(self) -> bool:
        """Whether the positions of a work-item are neighbours; else work-items take turns."""
        return not self.tile.by_element

    @property
    def fetches_ahead(self) -> bool:
        """Whether a work-item asks for the activations that its neighbour will read.

        A processor guesses by itself what is read next where every column is kept, not where some
        are left out and each is a place of its own. Where windows share them, asking takes longer
        than it saves, unless they come from memory.
        """
        if self.dtype != "float32" or not self.adjacent:
            return False
        groups = ceil_div(self.data[1], self.group.g_n)
        prunes = self.kept < self.rows[0] * groups * math.prod(self.kernel)
        if not (prunes and groups > 1 and self.items > 1):
            return False
        if self.texture:  # OpenCL's prefetch takes a pointer
            return False
        return self.reads_once or self._beyond_caches(self.data)

    @property
    def fetches_stores(self) -> bool:
        """Whether it asks for the lines that it will store to as well.

        With few products for each, or where they come from memory, its stores would wait for them.
        """
        return self.fetches_ahead and (self.reads_once or self._beyond_caches(self.out))

    def _beyond_caches(self, shape: tuple[int, ...]) -> bool:
        return math.prod(shape) * np.dtype(self.dtype).itemsize > CACHED_BYTES

    @property
    def reads_once(self) -> bool:
        """Whether no two windows of a plane share a position."""
        return self.kernel[1:] == (1, 1)

    @property
    def in_rows(self) -> bool:
        """Whether all positions of a work-item are of one row, at one distance in the input."""
        return self.adjacent and not self.along_input

    @property
    def items(self) -> int:
        """Work-items along the positions of a plane."""
        if self.in_rows:
            return self.out[3] * ceil_div(self.out[4], self.width)
        return ceil_div(self.positions, self.width)

    @property
    def width(self) -> int:
        """Positions a work-item: those of its tile, where a plane, or its row, has as many."""
        return min(self.tile.width, self.out[4] if self.in_rows else self.positions)

    def why_no_texture(self) -> str | None:
        """Why the input cannot be read through a texture, or None where it can."""
        furthest = max(
            halo - before + (size - 1) * step
            for halo, before, size, step in zip(
                (self.x.halo_h, self.x.halo_w),
                self.padding[1:3],
                self.kernel[1:],
                self.dilation[1:],
                strict=True,
            )
        )
        if furthest >= 1 << BITS:  # an offset has no more
            most = (1 << BITS) - 1
            return f"its window reaches {furthest} rows or columns far; at most {most} is accepted"
        return why_no_texture(self.x, self.data)

    def offsets(self, columns: np.ndarray) -> np.ndarray:
        """As in KGSConv3d, in vectors: an index that is VECTOR times something is aligned.

        In a texture the layer, row and column, as `texture.locations` has them.
        """
        if not self.texture:
            return super().offsets(columns) // VECTOR
        q, *window = columns.astype("int64").T
        kd, kh, kw = (
            k * step + first
            for k, step, first in zip(window, self.dilation, self._first, strict=True)
        )
        return locations(q * self.group.g_n // VECTOR * self.data[2] + kd, kh, kw)

    def columns(self, offsets: np.ndarray, pointers: np.ndarray) -> np.ndarray:
        """The inverse of ``offsets``."""
        if not self.texture:
            return super().columns(offsets * VECTOR, pointers)
        kd = np.repeat(np.arange(len(pointers) - 1) % self.kernel[0], np.diff(pointers))
        layer, *inside = taken_apart(offsets.astype("int64"))
        front, *first = self._first
        block = (layer - front - kd * self.dilation[0]) // self.data[2]
        kh, kw = (
            (at - start) // step
            for at, start, step in zip(inside, first, self.dilation[1:], strict=True)
        )
        q = block * VECTOR // self.group.g_n
        return np.stack([q, kd, kh, kw], axis=1).astype("int32")

    @property
    def _first(self) -> tuple[int, int, int]:
        """Plane, row and column of x at location (0, 0, 0) of output position (0, 0, 0)."""
        front, top, left = self.padding[:3]
        return -front, self.x.halo_h - top, self.x.halo_w - left


def opencl_kgs_conv3d(conv: OpenCLKGSConv3d) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, blocks, offsets, pointers, bias, [residual,] y) of one convolution.

    Arguments and blocks ("halo", "tile") as those of kgs_conv3d, and "texture" where it has one;
    bias holds whole row blocks.
    """
    batch, _, depth, _, _ = conv.out
    count_p, _ = conv.rows
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        args = begin(conv.name, conv.to_json(), parameters(conv))
        with T.sblock("root"):
            fill_halo(conv.y, conv.out, conv.dtype, args["y"])
            if conv.texture:
                args["texture"] = fill_texture(args["x"], conv.x, conv.data, conv.dtype)
            parts = conv.group.g_m // conv.rows_per_item
            extents = (batch, count_p, parts, depth, conv.items)
            with T.grid(*extents) as loops, T.sblock("tile"):
                position = spatial(extents, loops)
                T.reads(*(whole(args[name]) for name in args if name != "y"))
                T.writes(_plane(conv, args["y"], position))
                lanes = conv.tile.lanes
                acc = [
                    [
                        T.sblock_alloc_buffer((lanes,), conv.accumulate, scope="local")
                        for _ in range(conv.tile.vectors(conv.rows_per_item))
                    ]
                    for _ in range(conv.width)
                ]
                compute_item(conv, args, acc, position)
    return builder.get()


def _plane(conv: OpenCLKGSConv3d, y, position):
    """The region of y that a work-item may write to."""
    n, _, _, d, _ = position
    shape = conv.y.shape(conv.out)
    return y[n, 0 : shape[1], d, 0 : shape[3], 0 : shape[4], 0:VECTOR]
