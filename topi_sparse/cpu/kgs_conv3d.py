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

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.activation import activated
from topi_sparse.cpu.register_tile import CACHE_LINE, Tile
from topi_sparse.halo import zero_halo
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import row_blocks
from topi_sparse.layout import ceil_div
from topi_sparse.windows import PackedConv3d, whole

# Relax's kOpaque: no operator is fused into the kernel, whose epilogue is its own.
OPAQUE = 8
# Output columns whose inputs are held in registers at a time, where lanes of them are multiplied.
INPUTS_AT_ONCE = 8
# The attribute of the PrimFunc under which its own definition stands, as JSON.
SPEC_ATTRIBUTE = "kgs_conv3d"


class At(NamedTuple):
    """Where a register tile is: batch and row in x and in y, row block, plane, strip, chunk."""

    x: tuple
    y: tuple
    p: object
    d: object
    strip: object
    c: object


@dataclass(frozen=True, kw_only=True)
class KGSConv3d(PackedConv3d):
    """All that defines one kgs_conv3d kernel; two equal definitions give the same PrimFunc.

    kept      kept columns of the weight, and ``weights`` the values stored for them
    weight_sets  weights with the same kept columns, one for each of so many parts of the batch
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

    def prim_func(self) -> tvm.tirx.PrimFunc:
        """The kernel that this defines, not scheduled yet."""
        return kgs_conv3d(self)

    def tile_width(self, columns: int) -> int:
        """Output columns of a tile that is ``columns`` wide where the output is."""
        return min(columns, self.out[4])

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


def kgs_conv3d(conv: KGSConv3d) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, blocks, offsets, pointers, bias, [residual,] y) of one convolution.

    x, residual and y are packed as ``conv.x``, ``conv.residual`` and ``conv.y`` say; blocks and
    pointers are those of KGSWeight, offsets those of ``conv``; bias holds M filters, padded with
    zeros to the channels that y stores. Blocks: "halo" writes y's zeros, "tile" all the rest.
    """
    batch, _, depth, height, _ = conv.out
    count_p, _ = conv.rows
    width, strips, _ = strips_of(conv)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        args = begin(conv, SPEC_ATTRIBUTE)
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
                n, p, d, h, strip = position
                tile(conv, args, At(x=(n, h), y=(n, h), p=p, d=d, strip=strip, c=c))
    return builder.get()


def tile(conv: KGSConv3d, args: Mapping, at: At, *, cached: bool = False) -> None:
    """One chunk of one register tile, within a block of its own; ``args`` by parameter name.

    cached: whether the inputs are known to be in a cache.
    """
    count_p, last_rows = conv.rows
    width, strips, rest = strips_of(conv)
    # One buffer for each vector of filters: TVM keeps those up to 1 KiB on the stack,
    # unless they are given a scope, and LLVM keeps them in registers then.
    acc = [
        T.sblock_alloc_buffer((conv.tile.lanes * width,), conv.dtype, layout=None)
        for _ in range(conv.tile.vectors(conv.group.g_m))
    ]
    results = acc
    if conv.tile.channels > 1:
        results = [T.sblock_alloc_buffer((conv.group.g_m * width,), conv.dtype, layout=None)]

    by_location = conv.kernel[1:] == (1, 1) and conv.weight_sets == conv.tile.channels == 1

    def of_rows(rows: int) -> None:
        def of_columns(columns: int) -> None:
            if by_location and not cached:
                with T.If(at.p == 0), T.Then():  # the other row blocks find them
                    _fetch_next_inputs(conv, args["x"], at, columns)
            _register_tile(conv, args, acc, results, at, rows=rows, columns=columns)

        _either(at.strip < strips - 1, rest, width, of_columns)

    _either(at.p < count_p - 1, last_rows % conv.group.g_m, conv.group.g_m, of_rows)


def strips_of(conv: KGSConv3d) -> tuple[int, int, int]:
    """Columns of a register tile, how many of them a row of the output takes, and what is over."""
    breadth = conv.out[4]
    width = min(conv.tile.width, breadth)
    return width, ceil_div(breadth, width), breadth % width


def begin(conv: KGSConv3d, attribute: str) -> dict:
    """Name, definition and parameters of the PrimFunc of a convolution with a KGS weight."""
    T.func_name(attribute)
    T.func_attr({"tirx.noalias": True, "op_pattern": OPAQUE, attribute: conv.to_json()})
    return {name: T.arg(name, buffer) for name, buffer in parameters(conv).items()}


def parameters(conv: KGSConv3d) -> dict:
    """The buffers that a kernel with a KGS weight is given, in order."""
    count_p, _ = conv.rows
    shapes = {
        "x": conv.x.shape(conv.data),
        "blocks": (conv.weight_sets * conv.weights,),
        "offsets": (conv.kept,),
        "pointers": (count_p * conv.chunks * conv.kernel[0] + 1,),
        "bias": (conv.stored_filters,),
        "residual": conv.residual and conv.residual.shape(conv.out),
        "y": conv.y.shape(conv.out),
    }
    return {
        name: T.buffer(shape, conv.argument_types.get(name, conv.dtype))
        for name, shape in shapes.items()
        if shape is not None
    }


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


def _register_tile(conv: KGSConv3d, args, acc, results, at: At, *, rows: int, columns: int) -> None:
    """rows x columns results: start from the bias or y, add one chunk, finish, store.

    ``results`` are the accumulators themselves, or what they come to when their channels are added.
    """
    (n, h), p, d, s, c = at.y, at.p, at.d, at.strip, at.c
    g_m, y, channels = conv.group.g_m, args["y"], conv.tile.channels
    lanes = rows if channels > 1 else conv.tile.lanes
    vectors = range(rows // lanes)
    left = s * min(conv.tile.width, conv.out[4])

    def lane(start):
        return T.Ramp(start, 1, lanes)

    def stored(layout, i, b):
        """Indices of vector b at column i in a tensor of the output's shape."""
        channel = p * g_m + b * lanes
        block, inner = channel // layout.c_block, channel % layout.c_block
        return [n, block, d, h + layout.halo_h, left + i + layout.halo_w, lane(inner)]

    def result(i, b):
        return results[b][lane(i * lanes)]

    def every_vector(value) -> None:
        for i in range(columns):
            for b in vectors:
                T.buffer_store(results[b], value(i, b), [lane(i * lanes)])

    def add(value) -> None:
        every_vector(lambda i, b: result(i, b) + value(i, b))

    def bias(_i, b):
        return args["bias"][lane(p * g_m + b * lanes)]

    def before(i, b):
        """What the chunks before this one have come to."""
        return y[tuple(stored(conv.y, i, b))]

    def zero(_i, _b):
        return T.Broadcast(tvm.tirx.const(0, conv.dtype), lanes)

    def first_chunk(body, *, later) -> None:
        if conv.chunks == 1:
            body()
            return
        with T.If(c == 0):
            with T.Then():
                body()
            with T.Else():
                later()

    def fetch(buffer, layout, *, write: bool) -> None:
        """Ask for the tile's lines of a tensor of the output's shape."""
        line = max(CACHE_LINE // (layout.c_block * np.dtype(conv.dtype).itemsize), 1)
        for b in range(0, rows, layout.c_block):
            for i in range(0, columns, line):
                channel = p * g_m + b
                index = [n, channel // layout.c_block, d, h + layout.halo_h]
                index += [left + i + layout.halo_w, channel % layout.c_block]
                T.evaluate(_prefetch(buffer[tuple(index)], write=write))

    fetch(y, conv.y, write=True)  # a store that finds none waits for the memory
    if conv.residual:
        with T.If(c == conv.chunks - 1), T.Then():
            fetch(args["residual"], conv.residual, write=False)
    if channels > 1:
        _sum_columns(conv, args, acc, at, rows=rows, columns=columns, from_zero=True)
        _add_channels(conv, acc, results[0], rows=rows, columns=columns)
        first_chunk(lambda: add(bias), later=lambda: add(before))
    else:
        first_chunk(
            lambda: every_vector(bias),
            later=lambda: every_vector(zero if conv.sums_apart else before),
        )
        _sum_columns(conv, args, acc, at, rows=rows, columns=columns)
        if conv.sums_apart:
            with T.If(c > 0), T.Then():
                add(before)

    def finish() -> None:
        def finished(i, b):
            value = result(i, b)
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
            T.buffer_store(y, result(i, b), stored(conv.y, i, b))


def _fetch_next_inputs(conv: KGSConv3d, x, at: At, columns: int) -> None:
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


def _sum_columns(
    conv: KGSConv3d, args, acc, at: At, *, rows: int, columns: int, from_zero: bool = False
) -> None:
    """Add every kept column of one chunk to the accumulators."""
    (n, h), p, d, s, c = at.x, at.p, at.d, at.strip, at.c
    tile, g_m, g_n, x = conv.tile, conv.group.g_m, conv.group.g_n, args["x"]
    lanes, channels = tile.lanes, tile.channels
    vectors = range(tile.vectors(rows))
    count_p, _ = conv.rows

    def lane(start):
        return T.Ramp(start, 1, lanes)

    if from_zero:
        zero = T.Broadcast(tvm.tirx.const(0, conv.dtype), lanes)
        for i, b in itertools.product(range(columns), vectors):
            T.buffer_store(acc[b], zero, [lane(i * lanes)])
    pointers, first = args["pointers"], (p * conv.chunks + c) * conv.kernel[0]
    kd_begin, kd_end = conv.valid_locations(d)
    begin, end = pointers[first + kd_begin], pointers[first + kd_end]
    strides = conv.x.strides(conv.data)
    steps = [step * stride for step, stride in zip(conv.stride, strides[2:], strict=False)]
    left = s * min(tile.width, conv.out[4])
    here = d * steps[0] + h * steps[1] + left * steps[2]
    weights_of_n = n // (conv.data[0] // conv.weight_sets) * conv.weights
    with T.serial(begin, end) as j:
        weight = weights_of_n + j * (g_n * rows)
        if rows < g_m:  # the last row block: the columns before it have g_m rows
            rows_before = pointers[(count_p - 1) * conv.chunks * conv.kernel[0]]
            weight = weight + rows_before * (g_n * (g_m - rows))
        starts = [args["offsets"][j] + here + i * steps[2] for i in range(columns)]
        if tile.by_element:
            groups = [T.bind(x[n, 0, 0, 0, 0, T.Ramp(start, 1, g_n)]) for start in starts]

        def value(channel, i):
            """A channel of column i in every lane, or those that share a vector."""
            if channels > 1:
                inputs = x[n, 0, 0, 0, 0, T.Ramp(starts[i] + channel, 1, channels)]
                return tvm.tirx.Shuffle([inputs] * (lanes // channels), [*range(lanes)])
            if tile.by_element:
                return T.Broadcast(tvm.tirx.Shuffle([groups[i]], [channel]), lanes)
            return T.Broadcast(x[n, 0, 0, 0, 0, starts[i] + channel], lanes)

        for part in _parts(columns, by_element=tile.by_element):
            pairs = [*itertools.product(part, vectors)]
            # Of inputs and weights those that are fewer stay in registers for all of the others.
            if len(part) < len(vectors) and not tile.by_element:
                pairs.sort(key=lambda pair: pair[1])
            for channel, (i, b) in itertools.product(range(0, g_n, channels), pairs):
                w = args["blocks"][lane(weight + channel * rows + b * lanes)]
                total = acc[b][lane(i * lanes)] + value(channel, i) * w
                T.buffer_store(acc[b], total, [lane(i * lanes)])


def _add_channels(conv: KGSConv3d, acc, results, *, rows: int, columns: int) -> None:
    """Add up the channels in the accumulators: ``rows`` results for each column.

    As many vectors at a time as there are channels, since they come to one together.
    """
    lanes, channels = conv.tile.lanes, conv.tile.channels
    vectors = conv.tile.vectors(rows)
    sums = [
        acc[b][T.Ramp(i * lanes, 1, lanes)]
        for i, b in itertools.product(range(columns), range(vectors))
    ]
    sums += sums[-1:] * (-len(sums) % channels)
    for first in range(0, len(sums), channels):
        total = T.bind(_added(sums[first : first + channels], lanes))
        column = first // vectors
        for i in range(column, min(column + lanes // rows, columns)):
            of_column = [*range((i - column) * rows, (i - column + 1) * rows)]
            T.buffer_store(
                results, tvm.tirx.Shuffle([total], of_column), [T.Ramp(i * rows, 1, rows)]
            )


def _added(vectors: list, lanes: int):
    """The sums over channels of as many vectors, lanes (filter, channel): (vector, filter).

    As matrices are transposed: two vectors become one at each step, half of the channels added to
    the other half, and no value leaves its filter's lanes before the last shuffle.
    """
    channels = len(vectors)
    while len(vectors) > 1:
        merged = channels // len(vectors)
        index = np.arange(lanes).reshape(-1, 2, len(vectors) // 2, merged)
        of_pair = np.stack([index, index + lanes], axis=3)
        lower, upper = (of_pair[:, half].ravel().tolist() for half in (0, 1))
        vectors = [
            T.bind(tvm.tirx.Shuffle(pair, lower) + tvm.tirx.Shuffle(pair, upper))
            for pair in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return tvm.tirx.Shuffle(vectors, np.arange(lanes).reshape(-1, channels).T.ravel().tolist())


def _parts(columns: int, *, by_element: bool) -> list[range]:
    """The output columns in equal parts, one multiplied after the other.

    By element, only a part's inputs are in registers at a time. In float16 they have to lie in the
    lower 16, and LLVM spills where more are.
    """
    size = ceil_div(columns, ceil_div(columns, INPUTS_AT_ONCE)) if by_element else columns
    return [range(i, min(i + size, columns)) for i in range(0, columns, size)]
