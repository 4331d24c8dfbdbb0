"""kgs_conv3d: direct 3D convolution with a KGS weight on packed activations, filters in lanes.

The kernel is one schedulable block: a register tile of one row block (g_m filters) over a strip of
output positions, for one chunk of channel groups. A loop of run-time length inside the block walks
the kept columns of (row block, chunk), so rows of unequal length cost nothing; outside it every
loop is affine and belongs to the schedule. There is no im2col: each column reads the shifted input
through its offset.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.activation import activated
from topi_sparse.halo import zero_halo
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import row_blocks
from topi_sparse.layout import ceil_div
from topi_sparse.register_tile import Tile
from topi_sparse.windows import PackedConv3d, whole

# Relax's kOpaque: no operator is fused into the kernel, whose epilogue is its own.
OPAQUE = 8
# Output columns whose inputs are held in registers at a time, where lanes of them are multiplied.
INPUTS_AT_ONCE = 8
# The attribute of the PrimFunc under which its own definition stands, as JSON.
SPEC_ATTRIBUTE = "kgs_conv3d"


@dataclass(frozen=True, kw_only=True)
class KGSConv3d(PackedConv3d):
    """All that defines one kgs_conv3d kernel; two equal definitions give the same PrimFunc.

    kept      kept columns of the weight, and ``weights`` the values stored for them
    weight_sets  weights with the same kept columns, one for each of so many parts of the batch
    """

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
    def rows(self) -> tuple[int, int]:
        """Number of row blocks, and the filters (with padding) in the last of them."""
        return row_blocks(self.filters, self.group.g_m, self.y.c_block)

    @property
    def stored_filters(self) -> int:
        """Filters with their padding: the length of the bias."""
        blocks, last_rows = self.rows
        return (blocks - 1) * self.group.g_m + last_rows

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


def kgs_conv3d(conv: KGSConv3d) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, blocks, offsets, pointers, bias, [residual,] y) of one convolution.

    x, residual and y are packed as ``conv.x``, ``conv.residual`` and ``conv.y`` say; blocks and
    pointers are those of KGSWeight, offsets those of ``conv``; bias holds M filters, padded with
    zeros to the channels that y stores. Blocks: "halo" writes y's zeros, "tile" all the rest.
    """
    batch, _, depth, height, breadth = conv.out
    count_p, last_rows = conv.rows
    width = min(conv.tile.width, breadth)
    strips, rest = ceil_div(breadth, width), breadth % width
    dtypes = {"offsets": "int32", "pointers": "int32"}
    shapes = {
        "x": conv.x.shape(conv.data),
        "blocks": (conv.weight_sets * conv.weights,),
        "offsets": (conv.kept,),
        "pointers": (count_p * conv.chunks * conv.kernel[0] + 1,),
        "bias": (conv.stored_filters,),
        "residual": conv.residual and conv.residual.shape(conv.out),
        "y": conv.y.shape(conv.out),
    }
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("kgs_conv3d")
        T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE, SPEC_ATTRIBUTE: conv.to_json()})
        args = {
            name: T.arg(name, T.buffer(shape, dtypes.get(name, conv.dtype)))
            for name, shape in shapes.items()
            if shape is not None
        }
        with T.sblock("root"):
            zero_halo(conv.y, conv.out, conv.dtype, args["y"])
            extents = (batch, count_p, depth, height, strips)
            with T.grid(*extents, conv.chunks) as (*loops, chunk), T.sblock("tile"):
                position = [
                    T.axis.spatial(extent, loop)
                    for extent, loop in zip(extents, loops, strict=True)
                ]
                c = T.axis.reduce(conv.chunks, chunk)
                T.reads(*(whole(args[name]) for name in args if name != "y"))
                T.writes(_tile_region(conv, args["y"], position, width))
                with T.init():  # the body initialises by itself; the schedule asks for an init
                    T.evaluate(0)
                # One buffer for each vector of filters: TVM keeps those up to 1 KiB on the stack,
                # unless they are given a scope, and LLVM keeps them in registers then.
                acc = [
                    T.sblock_alloc_buffer((conv.tile.lanes * width,), conv.dtype, layout=None)
                    for _ in range(conv.group.g_m // conv.tile.lanes)
                ]

                def tile(rows: int, columns: int) -> None:
                    _register_tile(conv, args, acc, position, c, rows=rows, columns=columns)

                def strip(rows: int) -> None:
                    _either(position[4] < strips - 1, rest, width, lambda n: tile(rows, n))

                _either(
                    position[1] < count_p - 1, last_rows % conv.group.g_m, conv.group.g_m, strip
                )
    return builder.get()


def _either(is_whole, rest: int, whole: int, body) -> None:
    """``body(whole)``, and where the last one is shorter, ``body(rest)`` for that one."""
    if not rest:
        body(whole)
        return
    with T.If(is_whole):
        with T.Then():
            body(whole)
        with T.Else():
            body(rest)


def _tile_region(conv: KGSConv3d, y, position, width: int):
    """The region of y that one register tile writes; its channels may share a channel block."""
    n, p, d, h, s = position
    c_block, g_m = conv.y.c_block, conv.group.g_m
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


def _register_tile(conv: KGSConv3d, args, acc, position, c, *, rows: int, columns: int) -> None:
    """rows x columns accumulators: start from the bias or y, add one chunk, finish, store."""
    n, p, d, h, s = position
    lanes, g_m, g_n, y = conv.tile.lanes, conv.group.g_m, conv.group.g_n, args["y"]
    vectors = range(rows // lanes)
    left = s * min(conv.tile.width, conv.out[4])
    count_p, _ = conv.rows

    def lane(start):
        return T.Ramp(start, 1, lanes)

    def accumulator(i):
        return [lane(i * lanes)]

    def stored(layout, i, b):
        """Indices of vector b at column i in a tensor of the output's shape."""
        channel = p * g_m + b * lanes
        block, inner = channel // layout.c_block, channel % layout.c_block
        return [n, block, d, h + layout.halo_h, left + i + layout.halo_w, lane(inner)]

    def every_vector(value) -> None:
        for i in range(columns):
            for b in vectors:
                T.buffer_store(acc[b], value(i, b), accumulator(i))

    zero = T.Broadcast(tvm.tirx.const(0, conv.dtype), lanes)

    def before(i, b):
        """What the chunks before this one have come to."""
        return y[tuple(stored(conv.y, i, b))]

    def start_from_bias() -> None:
        every_vector(lambda i, b: args["bias"][lane(p * g_m + b * lanes)])

    if conv.chunks == 1:
        start_from_bias()
    else:
        with T.If(c == 0):
            with T.Then():
                start_from_bias()
            with T.Else():
                every_vector((lambda i, b: zero) if conv.sums_apart else before)

    pointers, first = args["pointers"], (p * conv.chunks + c) * conv.kernel[0]
    kd_begin, kd_end = conv.valid_locations(d)
    begin, end = pointers[first + kd_begin], pointers[first + kd_end]
    strides = conv.x.strides(conv.data)
    steps = [step * stride for step, stride in zip(conv.stride, strides[2:], strict=False)]
    here = d * steps[0] + h * steps[1] + left * steps[2]
    weights_of_n = n // (conv.data[0] // conv.weight_sets) * conv.weights
    with T.serial(begin, end) as j:
        weight = weights_of_n + j * (g_n * rows)
        if rows < g_m:  # the last row block: the columns before it have g_m rows
            rows_before = pointers[(count_p - 1) * conv.chunks * conv.kernel[0]]
            weight = weight + rows_before * (g_n * (g_m - rows))
        x = args["x"]
        starts = [args["offsets"][j] + here + i * steps[2] for i in range(columns)]
        if conv.tile.by_element:
            groups = [T.bind(x[n, 0, 0, 0, 0, T.Ramp(start, 1, g_n)]) for start in starts]
        for part in _parts(columns, by_element=conv.tile.by_element):
            for channel, i in itertools.product(range(g_n), part):
                if conv.tile.by_element:
                    value = tvm.tirx.Shuffle([groups[i]], [channel])
                else:
                    value = x[n, 0, 0, 0, 0, starts[i] + channel]
                for b in vectors:
                    w = args["blocks"][lane(weight + channel * rows + b * lanes)]
                    at = accumulator(i)
                    total = acc[b][tuple(at)] + T.Broadcast(value, lanes) * w
                    T.buffer_store(acc[b], total, at)

    if conv.sums_apart:
        with T.If(c > 0), T.Then():
            every_vector(lambda i, b: acc[b][tuple(accumulator(i))] + before(i, b))

    def finish() -> None:
        def finished(i, b):
            value = acc[b][tuple(accumulator(i))]
            if conv.residual:
                value = value + args["residual"][tuple(stored(conv.residual, i, b))]
            return activated(
                value, relu=conv.relu, ceiling=conv.ceiling, dtype=conv.dtype, lanes=lanes
            )

        every_vector(finished)

    if conv.residual or conv.relu or conv.ceiling is not None:
        if conv.chunks == 1:
            finish()
        else:
            with T.If(c == conv.chunks - 1), T.Then():
                finish()
    for i in range(columns):
        for b in vectors:
            T.buffer_store(y, acc[b][tuple(accumulator(i))], stored(conv.y, i, b))


def _parts(columns: int, *, by_element: bool) -> list[range]:
    """The output columns in equal parts, one multiplied after the other.

    By element, only a part's inputs are in registers at a time. In float16 they have to lie in the
    lower 16, and LLVM spills where more are.
    """
    size = ceil_div(columns, ceil_div(columns, INPUTS_AT_ONCE)) if by_element else columns
    return [range(i, min(i + size, columns)) for i in range(0, columns, size)]
