"""opencl_kgs_conv3d: the convolution of kgs_conv3d for GPUs, a register tile a work-item.

The weight format, the packed layout and the loop over kept columns are those of kgs_conv3d. What
differs is who computes: a work-item has ``rows_per_item`` filters of a row block at ``width``
output positions of one plane, a vector of accumulators for each, and walks the kept columns of its
row block. Its neighbour has the neighbouring positions and the same columns, so that both read
neighbouring activations and the same weights: nothing has to go through local memory.

Positions are counted along the rows of the input where the kernel moves by one: a work-group then
reads one run of memory however short the rows are, and the few positions between two rows, which
lie in the halo, are computed and not stored.

On a CPU, whose work-items are turns of a loop over vectors, the positions of one work-item are
neighbours, whose activations share cache lines, and each number of them is broadcast from memory.
Few filters may share the lanes with channels, as in kgs_conv3d: each filter's lanes are added up
after the last column.

A kernel may read its input through a texture: it copies the input into one first, which moves each
number once, where every row block reads it once for each kept location of its window.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.activation import activated
from topi_sparse.cpu.kgs_conv3d import KGSConv3d, begin
from topi_sparse.halo import zero_halo
from topi_sparse.layout import ceil_div
from topi_sparse.opencl.texture import (
    BITS,
    fill_texture,
    locations,
    read_texel,
    taken_apart,
    why_no_texture,
)
from topi_sparse.opencl.work_item import VECTOR
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
    rows_per_item   filters a work-item, a divisor of g_m
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
        args = begin(conv, OPENCL_ATTRIBUTE)
        with T.sblock("root"):
            zero_halo(conv.y, conv.out, conv.dtype, args["y"])
            if conv.texture:
                args["texture"] = fill_texture(args["x"], conv.x, conv.data, conv.dtype)
            parts = conv.group.g_m // conv.rows_per_item
            extents = (batch, count_p, parts, depth, conv.items)
            with T.grid(*extents) as loops, T.sblock("tile"):
                position = [
                    T.axis.spatial(extent, loop)
                    for extent, loop in zip(extents, loops, strict=True)
                ]
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
                _register_tile(conv, args, acc, position)
    return builder.get()


def _plane(conv: OpenCLKGSConv3d, y, position):
    """The region of y that a work-item may write to."""
    n, _, _, d, _ = position
    shape = conv.y.shape(conv.out)
    return y[n, 0 : shape[1], d, 0 : shape[3], 0 : shape[4], 0:VECTOR]


class _Buffer:
    """The input of output plane (n, d) as it is: places and kept columns are counts of vectors."""

    def __init__(self, conv: OpenCLKGSConv3d, args: Mapping, n, d) -> None:
        self.conv, self.args = conv, args
        self.strides = [stride // VECTOR for stride in conv.x.strides(conv.data)[:5]]
        self.start = n * self.strides[0] + d * (conv.stride[0] * self.strides[2])
        self.step = self.strides[4] * (1 if conv.along_input else conv.stride[2])

    def place(self, position):
        """Where the window of an output position starts."""
        conv = self.conv
        if conv.along_input:
            return T.bind(self.start + position * self.step)
        row, column = position // conv.row_length, position % conv.row_length
        moved = row * (conv.stride[1] * self.strides[3]) + column * self.step
        return T.bind(self.start + moved)

    def beside(self, place, count: int):
        """The place so many output columns further in a row."""
        return place + count * self.step

    def kept(self, j):
        """Where kept column j is in a window."""
        return T.bind(self.args["offsets"][j])

    def vector(self, kept, place):
        """Four channels of a kept column."""
        return self.args["x"][0, 0, 0, 0, 0, T.Ramp((kept + place) * VECTOR, 1, VECTOR)]

    def number(self, kept, place, channel: int):
        """One of them."""
        return self.args["x"][0, 0, 0, 0, 0, (kept + place) * VECTOR + channel]


class _Texture:
    """The same in a texture: a place is a column and a row, a kept column has a layer as well.

    Its texels are read whole, and nothing is asked for ahead: there is no ``number`` and no step.
    """

    def __init__(self, conv: OpenCLKGSConv3d, args: Mapping, n, d) -> None:
        self.conv, self.args = conv, args
        planes = conv.x.shape(conv.data)[1] * conv.data[2]
        self.layer = n * planes + d * conv.stride[0]

    def place(self, position):
        """Where the window of an output position starts."""
        row, column = position // self.conv.row_length, position % self.conv.row_length
        return T.bind(column * self.conv.stride[2]), T.bind(row * self.conv.stride[1])

    def beside(self, place, count: int):
        """The place so many output columns further in a row."""
        column, row = place
        return column + count * self.conv.stride[2], row

    def kept(self, j):
        """Where kept column j is in a window."""
        layer, row, column = taken_apart(T.bind(self.args["offsets"][j]))
        return T.bind(column), T.bind(row), T.bind(layer + self.layer)

    def vector(self, kept, place):
        """Four channels of a kept column."""
        column, row, layer = kept
        at = column + place[0], row + place[1], layer
        return read_texel(self.args["texture"], self.conv.dtype, *at)


def _register_tile(conv: OpenCLKGSConv3d, args, acc, position) -> None:
    """Start from the bias, add every kept column of the row block, finish, store."""
    n, p, part, d, item = position
    lanes, width, (g_m, g_n) = conv.tile.lanes, conv.width, (conv.group.g_m, conv.group.g_n)
    channels, vectors = conv.tile.channels, range(conv.tile.vectors(conv.rows_per_item))
    filters = lanes // channels  # of a vector
    first_row = p * g_m + part * conv.rows_per_item

    def lane(start, count: int):
        return T.Ramp(start, 1, count)

    def to_sum(value, stored: str, count: int):
        same = stored == conv.accumulate
        return value if same else tvm.tirx.Cast(f"{conv.accumulate}x{count}", value)

    def bias(row, count: int):
        return args["bias"][lane(row, count)]

    zero = T.Broadcast(tvm.tirx.const(0, conv.accumulate), lanes)
    for i in range(width):
        for b in vectors:
            start = bias(first_row + b * lanes, lanes) if channels == 1 else zero
            T.buffer_store(acc[i][b], start, [lane(0, lanes)])

    source = (_Texture if conv.texture else _Buffer)(conv, args, n, d)
    if conv.in_rows:  # the last work-item of a row begins early enough to end with it
        in_row = ceil_div(conv.row_length, width)
        first_column = T.min(item % in_row * width, conv.row_length - width)
        first_position = T.bind(item // in_row * conv.row_length + first_column)
    elif conv.adjacent:  # of a plane
        first_position = T.bind(T.min(item * width, conv.positions - width))
    if conv.adjacent:
        flat, outside = [first_position + i for i in range(width)], [False] * width
    else:
        flat = [item + i * conv.items for i in range(width)]
        outside = [conv.items * (i + 1) > conv.positions for i in range(width)]
    here = []
    for position, may_be_outside in zip(flat, outside, strict=True):
        if conv.in_rows and here:
            here.append(source.beside(here[0], len(here)))
            continue
        if may_be_outside:
            position = T.min(position, conv.positions - 1)
        here.append(source.place(position))

    pointers, kd_range = args["pointers"], conv.valid_locations(d)
    begin, end = (T.bind(pointers[p * conv.kernel[0] + kd]) for kd in kd_range)

    def activations(kept, at):
        return T.bind(to_sum(source.vector(kept, at), conv.dtype, VECTOR))

    def prefetch(element, count: int) -> None:
        """Ask for so many vectors from this element on."""
        address = T.address_of(element)
        T.evaluate(T.call_extern("void", "prefetch", address, count * VECTOR))

    blocks = conv.y.shape(conv.out)[1]
    if conv.fetches_ahead:
        row, column = flat[0] // conv.row_length, flat[0] % conv.row_length
        for quarter in range(conv.rows_per_item // VECTOR if conv.fetches_stores else 0):
            block = T.min(first_row // VECTOR + quarter, blocks - 1)
            for name, layout in (("y", conv.y), ("residual", conv.residual)):
                if layout:
                    at = (n, block, d, row + layout.halo_h, column + layout.halo_w)
                    prefetch(args[name][(*at, 0)], width)
        with T.serial(begin, end) as j:
            neighbour = args["offsets"][j] + source.beside(here[0], width)
            prefetch(args["x"][0, 0, 0, 0, 0, neighbour * VECTOR], width * source.step)
    with T.serial(begin, end) as j:
        kept = source.kept(j)
        # Where lanes of them are multiplied, or all of a texel is read. Else they are needed once,
        # one position after the other: loaded all at first they would take the sums' registers.
        at_first = conv.tile.by_element or (conv.texture and channels == 1)
        loaded = [activations(kept, at) for at in here] if at_first else []
        for first in range(0, g_n, channels):
            weights = []
            for b in vectors:
                at = (j * g_n + first) * g_m + part * conv.rows_per_item * channels + b * lanes
                stored = args["blocks"][lane(at, lanes)]
                weights.append(T.bind(to_sum(stored, conv.weight_dtype, lanes)))
            for i, at in enumerate(here):
                if at_first:
                    value = T.Broadcast(tvm.tirx.Shuffle([loaded[i]], [first]), lanes)
                elif channels == 1:
                    number = source.number(kept, at, first).astype(conv.accumulate)
                    # Bound, since TVM writes what is broadcast once for each lane.
                    value = T.Broadcast(T.bind(number), lanes)
                else:
                    value = _for_each_filter(conv, activations(kept, at))
                for b in vectors:
                    total = acc[i][b][lane(0, lanes)] + value * weights[b]
                    T.buffer_store(acc[i][b], total, [lane(0, lanes)])

    blocks = conv.y.shape(conv.out)[1]
    for i, position in enumerate(flat):
        row, column = position // conv.row_length, position % conv.row_length
        conditions = []
        if outside[i]:
            conditions.append(position < conv.positions)
        if conv.row_length > conv.out[4]:
            conditions.append(column < conv.out[4])
        with _where(conditions):
            for b in vectors:
                for quarter in range(filters // VECTOR):
                    value = acc[i][b][T.Ramp(quarter * VECTOR * channels, channels, VECTOR)]
                    for channel in range(1, channels):
                        start = quarter * VECTOR * channels + channel
                        value = value + acc[i][b][T.Ramp(start, channels, VECTOR)]
                    if channels > 1:
                        value = value + bias(first_row + b * filters + quarter * VECTOR, VECTOR)
                    block = first_row // VECTOR + b * (filters // VECTOR) + quarter
                    beyond = conv.stored_filters > blocks * VECTOR
                    with _where([block < blocks] if beyond else []):
                        _store(conv, args, value, [n, block, d], row, column)


def _for_each_filter(conv: OpenCLKGSConv3d, value):
    """A vector of activations, written down once for each filter of a vector of sums.

    In registers: TVM's own shuffle of a vector is no OpenCL C.
    """
    lanes = conv.tile.lanes
    repeated = T.sblock_alloc_buffer((lanes,), conv.accumulate, scope="local")
    for start in range(0, lanes, VECTOR):
        T.buffer_store(repeated, value, [T.Ramp(start, 1, VECTOR)])
    return T.bind(repeated[T.Ramp(0, 1, lanes)])


def _store(conv: OpenCLKGSConv3d, args, value, at: list, row, column) -> None:
    """Residual, ReLU and its ceiling, rounded once."""

    def stored(layout):
        return [*at, row + layout.halo_h, column + layout.halo_w, T.Ramp(0, 1, VECTOR)]

    def cast(dtype: str, vector):
        return vector if conv.accumulate == conv.dtype else tvm.tirx.Cast(dtype, vector)

    if conv.residual:
        shortcut = args["residual"][tuple(stored(conv.residual))]
        value = value + cast(f"{conv.accumulate}x{VECTOR}", shortcut)
    value = activated(
        value, relu=conv.relu, ceiling=conv.ceiling, dtype=conv.accumulate, lanes=VECTOR
    )
    T.buffer_store(args["y"], cast(f"{conv.dtype}x{VECTOR}", value), stored(conv.y))


@contextlib.contextmanager
def _where(conditions: list) -> Iterator[None]:
    """Guard what is emitted inside by all conditions; without any it is emitted as it is."""
    if not conditions:
        yield
        return
    with T.If(tvm.tirx.all(*conditions)), T.Then():
        yield
