"""kgs_conv3d: direct 3D convolution with a KGS weight on packed activations.

The kernel is one schedulable block: a register tile of one row block (g_m filters) over a strip of
output positions, for one chunk of channel groups. A loop of run-time length inside the block walks
the kept columns of (row block, chunk), so rows of unequal length cost nothing; outside it every
loop is affine and belongs to the schedule. There is no im2col: each column reads the shifted input
through its offset.

The lanes of a vector hold filters. Where a row block has few of them, its channels share the lanes:
a vector of weights is (filter, channel), the inputs of the group's channels, which lie side by
side, are broadcast together, and each filter's lanes are added up after the last column.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.cpu.kgs_tile import At, tile
from topi_sparse.cpu.register_tile import CACHE_LINE, Tile
from topi_sparse.halo import fill_halo
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import row_blocks
from topi_sparse.layout import ceil_div
from topi_sparse.prim_func import begin, spatial, typed
from topi_sparse.windows import PackedConv3d, whole

# The attribute of the PrimFunc under which its own definition stands, as JSON.
SPEC_ATTRIBUTE = "kgs_conv3d"


@dataclass(frozen=True, kw_only=True)
class KGSConv3d(PackedConv3d):
    """All that defines one kgs_conv3d kernel; two equal definitions give the same PrimFunc.

    kept      kept columns of the weight, and ``weights`` the values stored for them
    weight_sets  weights with the same kept columns, one for each of so many parts of the batch
    interleave   the filters are of so many phases along D, H and W, as many of each. Phase
                 (i, j, k) is stored at place (i, j, k) of every so many; row blocks are of one
    """

    name: ClassVar[str] = SPEC_ATTRIBUTE
    parts: ClassVar[Mapping[str, Callable]] = {
        **PackedConv3d.parts,
        "group": KernelGroup,
        "tile": Tile,
    }

    group: KernelGroup
    kept: int
    weights: int
    tile: Tile
    weight_sets: int = 1
    interleave: tuple[int, int, int] = (1, 1, 1)

    def prim_func(self) -> tvm.tirx.PrimFunc:
        """The kernel that this defines, not scheduled yet."""
        return kgs_conv3d(self)

    def tile_width(self, columns: int) -> int:
        """Output columns of a tile that is ``columns`` wide where the output is."""
        return min(columns, self.out[4])

    @property
    def filters_of_phase(self) -> int:
        """Filters of one phase, with their padding."""
        return self.filters // math.prod(self.interleave)

    @property
    def joined(self) -> tuple[int, int, int, int, int]:
        """(B, M, D, H, W) of what is stored: the output, its phases between each other."""
        if self.interleave == (1, 1, 1):
            return self.out
        batch, _, *places = self.out
        sizes = (size * step for size, step in zip(places, self.interleave, strict=True))
        return (batch, self.filters_of_phase, *sizes)

    @property
    def strips(self) -> tuple[int, int, int]:
        """Columns of a register tile, its tiles in a row of the output, and columns left over."""
        breadth = self.out[4]
        width = min(self.tile.width, breadth)
        return width, ceil_div(breadth, width), breadth % width

    @property
    def row_blocks_last(self) -> bool:
        """Whether a tile's inputs should stay in L1 for all row blocks, rather than their weights.

        Where channels share the vectors, a tile reads up to seven cache lines of input for one of
        weights. A narrow tile of many filters reads more of weights, so they stay: that saves a
        tenth of the time for 3 columns of 8 filters with AVX2.

        With a window of one location along H and W a tile reads each line for a few multiply-adds.
        With AVX-512, whose channel block is a line, they end before the next cache sends a line. A
        weight for each point of Winograd's transform is another case: its planes are a row each.
        """
        tile, c_block = self.tile, self.x.c_block
        line = c_block * np.dtype(self.dtype).itemsize >= CACHE_LINE
        by_line = line and self.kernel[1] * self.kernel[2] == self.weight_sets == 1
        inputs, weights = tile.width * c_block, self.group.g_m * tile.channels
        return by_line or (tile.channels > 1 and inputs >= weights)

    def to_json(self) -> str:
        """The definition as JSON; its order of loops is told too, for the schedule."""
        return json.dumps({**dataclasses.asdict(self), "row_blocks_last": self.row_blocks_last})

    @classmethod
    def from_json(cls, text: str) -> KGSConv3d:
        """What ``to_json`` wrote."""
        fields = json.loads(text)
        fields.pop("row_blocks_last", None)
        return super().from_json(json.dumps(fields))

    @property
    def item_rows(self) -> int:
        """Filters of a work-item; 0 for a kernel that has none."""
        return 0

    @property
    def reads_texture(self) -> bool:
        """Whether the input is read through a texture."""
        return False

    def why_no_texture(self) -> str | None:
        """Why the input cannot be read through a texture, or None where it can."""
        return "a core has no textures"

    @property
    def other_types(self) -> dict[str, str]:
        """The types beside ``dtype`` by which its kernel differs from others."""
        return {}

    @property
    def constants(self) -> tuple[str, ...]:
        """The kernel's arguments that follow from its weights: those behind its input, in order."""
        return ("blocks", "offsets", "pointers", "bias")

    @property
    def packing(self) -> dict[str, int | None]:
        """What `KGSWeight.from_dense` packs the weights by, besides group, chunk and rows."""
        return {"channels": self.tile.channels}

    def lanes_of(self, g_m: int, channels: int) -> int:
        """Lanes of a vector of sums of ``g_m`` filters, where so many channels share it."""
        return min(g_m * channels, self.y.c_block)

    @property
    def chunks(self) -> int:
        """Number of chunks of channel groups."""
        return ceil_div(ceil_div(self.data[1], self.group.g_n), self.tile.chunk)

    @property
    def sums_apart(self) -> bool:
        """Whether every chunk is summed from zero and then added to the sum of those before.

        In float16 the error then grows with the terms of a chunk plus the number of chunks, where
        one running sum has it grow with their product. In float32 neither is seen.
        """
        return self.dtype == "float16" and self.chunks > 1

    @property
    def row_multiple(self) -> int:
        """What the filters are padded to a multiple of."""
        return self.y.c_block

    @property
    def rows(self) -> tuple[int, int]:
        """Number of row blocks, and the filters (with padding) in the last of them."""
        return row_blocks(self.filters, self.group.g_m, self.row_multiple)

    @property
    def stored_filters(self) -> int:
        """Filters with their padding: the length of the bias."""
        blocks, last_rows = self.rows
        return (blocks - 1) * self.group.g_m + last_rows

    @property
    def argument_types(self) -> dict[str, str]:
        """The types of a kernel's arguments that are not ``dtype``, by their names."""
        return {"offsets": "int32", "pointers": "int32"}

    def offsets(self, columns: np.ndarray) -> np.ndarray:
        """Where each column (KGSWeight.columns) of output position (0, 0, 0) starts in x, int32."""
        strides, c_block = self.x.strides(self.data), self.x.c_block
        q, kd, kh, kw = columns.astype("int64").T
        n = q * self.group.g_n
        offsets = (
            self._origin
            + n // c_block * strides[1]
            + n % c_block
            + kd * self.dilation[0] * strides[2]
            + kh * self.dilation[1] * strides[3]
            + kw * self.dilation[2] * strides[4]
        )
        return offsets.astype("int32")

    @property
    def _origin(self) -> int:
        """Where location (0, 0, 0) of output position (0, 0, 0) is in x; before it, if padded."""
        strides = self.x.strides(self.data)
        return (
            -self.padding[0] * strides[2]
            + (self.x.halo_h - self.padding[1]) * strides[3]
            + (self.x.halo_w - self.padding[2]) * strides[4]
        )

    def columns(self, offsets: np.ndarray, pointers: np.ndarray) -> np.ndarray:
        """The inverse of ``offsets``, for the ``pointers`` of the same KGSWeight.

        kd comes from the pointers: it may reach further than the input is deep, and an offset
        alone could then be of the next channel block as well.
        """
        strides, c_block = self.x.strides(self.data), self.x.c_block
        kd = np.repeat(np.arange(len(pointers) - 1) % self.kernel[0], np.diff(pointers))
        plane = offsets.astype("int64") - self._origin - kd * self.dilation[0] * strides[2]
        block, rest = np.divmod(plane, strides[1])
        h, rest = np.divmod(rest, strides[3])
        w, n = np.divmod(rest, strides[4])
        q = (block * c_block + n) // self.group.g_n
        return np.stack([q, kd, h // self.dilation[1], w // self.dilation[2]], axis=1).astype(
            "int32"
        )


def parameters(conv: KGSConv3d) -> dict[str, tuple]:
    """The shape and type of what a kernel with a KGS weight is given, in order."""
    count_p, _ = conv.rows
    shapes = {
        "x": conv.x.shape(conv.data),
        "blocks": (conv.weight_sets * conv.weights,),
        "offsets": (conv.kept,),
        "pointers": (count_p * conv.chunks * conv.kernel[0] + 1,),
        "bias": (conv.stored_filters,),
        "residual": conv.residual and conv.residual.shape(conv.joined),
        "y": conv.y.shape(conv.joined),
    }
    return typed(shapes, conv.dtype, **conv.argument_types)


def kgs_conv3d(conv: KGSConv3d) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, blocks, offsets, pointers, bias, [residual,] y) of one convolution.

    x, residual and y are packed as ``conv.x``, ``conv.residual`` and ``conv.y`` say; blocks and
    pointers are those of KGSWeight, offsets those of ``conv``; bias holds M filters, padded with
    zeros to the channels that y stores. Blocks: "halo" writes y's zeros, "tile" all the rest.
    """
    return packed_conv3d(conv, parameters(conv), tile)


def packed_conv3d(
    conv: KGSConv3d, arguments: Mapping[str, tuple], of_tile: Callable[..., None]
) -> tvm.tirx.PrimFunc:
    """The loops over register tiles; ``of_tile(conv, args, at)`` computes one of them."""
    batch, _, depth, height, _ = conv.out
    count_p, _ = conv.rows
    width, strips, _ = conv.strips
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        args = begin(conv.name, conv.to_json(), arguments)
        with T.sblock("root"):
            fill_halo(conv.y, conv.joined, arguments["y"][1], args["y"])
            extents = (batch, count_p, depth, height, strips)
            with T.grid(*extents, conv.chunks) as (*loops, chunk), T.sblock("tile"):
                position = spatial(extents, loops)
                c = T.axis.reduce(conv.chunks, chunk)
                T.reads(*(whole(args[name]) for name in args if name != "y"))
                T.writes(_tile_region(conv, args["y"], position, width))
                with T.init():  # the body initialises by itself; the schedule asks for an init
                    T.evaluate(0)
                n, p, d, h, strip = position
                of_tile(conv, args, At(x=(n, h), y=(n, h), p=p, d=d, strip=strip, c=c))
    return builder.get()


def _tile_region(conv: KGSConv3d, y, position, width: int):
    """The region of y that one register tile writes; its channels may share a channel block."""
    n, p, d, h, s = position
    c_block, g_m = conv.y.c_block, conv.group.g_m
    if conv.interleave != (1, 1, 1):  # phases of one row lie between each other
        return whole(y)
    first = p * g_m // c_block
    left = conv.y.halo_w + s * width
    return y[
        n,
        first : first + ceil_div(g_m, c_block),
        d,
        h + conv.y.halo_h,
        left : left + width,
        0:c_block,
    ]
