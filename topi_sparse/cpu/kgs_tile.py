"""The register tile of kgs_conv3d: one chunk of a row block over a strip of output columns.

The algorithm, for one row block p, chunk c and strip at plane d, row h::

    for i in columns of the strip:
        for m in filters of the row block:
            acc[i, m] = bias[m] if c == 0 else y[i, m]
    for j in kept columns of (p, c) whose plane exists:
        for n in channels of the group:
            for i in columns of the strip:
                for m in filters of the row block:
                    acc[i, m] += x[offsets[j] + n + i * stride] * blocks[j, n, m]
    for i in columns of the strip:
        for m in filters of the row block:
            y[i, m] = relu(acc[i, m] + residual[i, m]) if c is the last chunk else acc[i, m]

The tile: the loops over i, n and m are unrolled, m (or m and n) runs over the lanes of vectors, and
all of acc stays in registers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tvm
from tvm.tirx.script.builder import ir as T

from topi_sparse.cpu.prefetch import fetch, fetch_next_inputs
from topi_sparse.layout import PackedLayout, ceil_div

if TYPE_CHECKING:
    from topi_sparse.cpu.kgs_conv3d import KGSConv3d

# Output columns whose inputs are held in registers at a time, where lanes of them are multiplied.
INPUTS_AT_ONCE = 8


class At(NamedTuple):
    """Where a register tile is: batch and row in x and in y, row block, plane, strip, chunk."""

    x: tuple
    y: tuple
    p: object
    d: object
    strip: object
    c: object


def tile(conv: KGSConv3d, args: Mapping, at: At, *, cached: bool = False) -> None:
    """One chunk of one register tile, within a block of its own; ``args`` by parameter name.

    cached: whether the inputs are known to be in a cache.
    """
    count_p, last_rows = conv.rows
    width, strips, rest = conv.strips
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
                    fetch_next_inputs(conv, args["x"], at, columns)
            _compute(
                RegisterTile(
                    conv=conv,
                    args=args,
                    acc=acc,
                    results=results,
                    at=at,
                    rows=rows,
                    columns=columns,
                )
            )

        either(at.strip < strips - 1, rest, width, of_columns)

    either(at.p < count_p - 1, last_rows % conv.group.g_m, conv.group.g_m, of_rows)


def either(is_whole, rest: int, most: int, body) -> None:
    """``body(most)``, and where the last one is shorter, ``body(rest)`` for that one."""
    if not rest:
        body(most)
        return
    with T.If(is_whole):
        with T.Then():
            body(most)
        with T.Else():
            body(rest)


@dataclass(frozen=True, kw_only=True)
class RegisterTile:
    """One register tile of ``rows`` x ``columns``, and where its results are.

    acc      the accumulators, a buffer for each vector of filters
    results  those themselves, or what they come to when their channels are added
    """

    conv: KGSConv3d
    args: Mapping
    acc: list
    results: list
    at: At
    rows: int
    columns: int

    @property
    def lanes(self) -> int:
        """Of a vector of results."""
        return self.rows if self.conv.tile.channels > 1 else self.conv.tile.lanes

    @property
    def vectors(self) -> range:
        """Vectors of results in a column."""
        return range(self.rows // self.lanes)

    @property
    def left(self):
        """The first output column."""
        return self.at.strip * min(self.conv.tile.width, self.conv.out[4])

    def lane(self, start):
        """The lanes of a vector that begins there."""
        return T.Ramp(start, 1, self.lanes)

    def stored(self, layout: PackedLayout, i: int, b: int) -> list:
        """Indices of vector b at column i in a tensor of the result's shape."""
        *place, inner = self.place(layout, i, b * self.lanes)
        return [*place, self.lane(inner)]

    def place(self, layout: PackedLayout, i: int, row: int) -> list:
        """Indices of a filter of the row block at column i in a tensor of the result's shape."""
        (n, h), p, conv = self.at.y, self.at.p, self.conv
        d, w, channel = self.at.d, self.left + i, p * conv.group.g_m + row
        if conv.interleave != (1, 1, 1):
            blocks = conv.filters_of_phase // conv.group.g_m
            phase, channel = p // blocks, p % blocks * conv.group.g_m + row
            of_d, of_h, of_w = conv.interleave
            d = d * of_d + phase // (of_h * of_w)
            h = h * of_h + phase // of_w % of_h
            w = w * of_w + phase % of_w
        block, inner = channel // layout.c_block, channel % layout.c_block
        return [n, block, d, h + layout.halo_h, w + layout.halo_w, inner]

    def result(self, i: int, b: int):
        """Vector b at column i."""
        return self.results[b][self.lane(i * self.lanes)]

    def every_vector(self, value: Callable[[int, int], object]) -> None:
        """Set each vector to the value of (column, vector)."""
        for i in range(self.columns):
            for b in self.vectors:
                T.buffer_store(self.results[b], value(i, b), [self.lane(i * self.lanes)])

    def add(self, value: Callable[[int, int], object]) -> None:
        """Add the value of (column, vector) to each vector."""
        self.every_vector(lambda i, b: self.result(i, b) + value(i, b))

    def bias(self, _i: int, b: int):
        """What a sum starts from in the first chunk."""
        return self.args["bias"][self.lane(self.at.p * self.conv.group.g_m + b * self.lanes)]

    def before(self, i: int, b: int):
        """What the chunks before this one have come to."""
        return self.args["y"][tuple(self.stored(self.conv.y, i, b))]

    def zero(self, _i: int, _b: int):
        """A vector of zeros."""
        return T.Broadcast(tvm.tirx.const(0, self.conv.dtype), self.lanes)

    def finished(self, i: int, b: int):
        """With residual, ReLU, its ceiling and further steps."""
        conv, value = self.conv, self.result(i, b)
        if conv.residual:
            value = value + self.args["residual"][tuple(self.stored(conv.residual, i, b))]
        return conv.finished(value, lanes=self.lanes)


def _compute(tile: RegisterTile) -> None:
    """Start from the bias or y, add one chunk, finish, store."""
    conv, c = tile.conv, tile.at.c
    fetch(tile, tile.args["y"], conv.y, write=True)  # a store that finds none waits for memory
    if conv.residual:
        with T.If(c == conv.chunks - 1), T.Then():
            fetch(tile, tile.args["residual"], conv.residual, write=False)
    if conv.tile.channels > 1:
        _sum_columns(tile, from_zero=True)
        _add_channels(tile)
        _first_chunk(tile, lambda: tile.add(tile.bias), later=lambda: tile.add(tile.before))
    else:
        _first_chunk(
            tile,
            lambda: tile.every_vector(tile.bias),
            later=lambda: tile.every_vector(tile.zero if conv.sums_apart else tile.before),
        )
        _sum_columns(tile)
        if conv.sums_apart:
            with T.If(c > 0), T.Then():
                tile.add(tile.before)
    if not conv.is_finished_by_sum:
        if conv.chunks == 1:
            tile.every_vector(tile.finished)
        else:
            with T.If(c == conv.chunks - 1), T.Then():
                tile.every_vector(tile.finished)
    for i in range(tile.columns):
        for b in tile.vectors:
            T.buffer_store(tile.args["y"], tile.result(i, b), tile.stored(conv.y, i, b))


def _first_chunk(
    tile: RegisterTile, body: Callable[[], None], *, later: Callable[[], None]
) -> None:
    """``body`` in the first chunk, ``later`` in those behind it."""
    if tile.conv.chunks == 1:
        body()
        return
    with T.If(tile.at.c == 0):
        with T.Then():
            body()
        with T.Else():
            later()


def _sum_columns(register_tile: RegisterTile, *, from_zero: bool = False) -> None:
    """Add every kept column of one chunk to the accumulators."""
    conv, args, at = register_tile.conv, register_tile.args, register_tile.at
    acc, rows, columns = register_tile.acc, register_tile.rows, register_tile.columns
    (n, h), p, d, c = at.x, at.p, at.d, at.c
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
    left = register_tile.left
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


def _add_channels(tile: RegisterTile) -> None:
    """Add up the channels in the accumulators: ``rows`` results for each column.

    As many vectors at a time as there are channels, since they come to one together.
    """
    conv, acc, rows, columns = tile.conv, tile.acc, tile.rows, tile.columns
    lanes, channels, (results,) = conv.tile.lanes, conv.tile.channels, tile.results
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
