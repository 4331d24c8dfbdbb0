"""The register tile of quantized_kgs_conv3d: a row block over a strip of output columns.

The algorithm, for one row block p and strip at plane d, row h::

    for j in kept columns of p whose plane exists:
        for i in columns of the strip:
            for m in filters of the row block:
                for n in the 4 channels of the group:
                    acc[i, m] += x[offsets[j] + n + i * stride] * blocks[j, m, n]
    for i in columns of the strip:
        for m in filters of the row block:
            y[i, m] = rounded((acc[i, m] + bias[m]) * scale[m])

The tile: the loops over i and m are unrolled, m runs over the lanes of vectors, the loop over n is
one instruction, and all of acc stays in registers. MatrixTile has another one, for an instruction
that takes two kept columns j at a time: its vectors are of two filters by two output columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm.tirx.script.builder import ir as T

from topi_sparse.cpu.dot_unit import CHANNELS, INSTRUCTIONS, broadcast
from topi_sparse.cpu.kgs_tile import At, either
from topi_sparse.cpu.quantized_sums import Results
from topi_sparse.layout import ceil_div

if TYPE_CHECKING:
    from topi_sparse.cpu.quantized_kgs_conv3d import QuantizedKGSConv3d


def quantized_tile(conv: QuantizedKGSConv3d, args: Mapping, at: At) -> None:
    """One register tile, within a block of its own; ``args`` by parameter name."""
    count_p, last_rows = conv.rows
    width, strips, rest = conv.strips
    of = QuantizedTile if INSTRUCTIONS[conv.instruction].columns == 1 else MatrixTile
    acc = [
        T.sblock_alloc_buffer((size,), "int32", layout=None)
        for size in of.accumulators(conv, width)
    ]

    def of_rows(rows: int) -> None:
        def of_columns(columns: int) -> None:
            tile = of(conv=conv, args=args, acc=acc, at=at, rows=rows, columns=columns)
            tile.sum_columns()
            tile.store()

        either(at.strip < strips - 1, rest, width, of_columns)

    either(at.p < count_p - 1, last_rows % conv.group.g_m, conv.group.g_m, of_rows)


@dataclass(frozen=True, kw_only=True)
class QuantizedTile:
    """One register tile of ``rows`` x ``columns``; acc: a buffer for each vector of sums."""

    conv: QuantizedKGSConv3d
    args: Mapping
    acc: list
    at: At
    rows: int
    columns: int

    @staticmethod
    def accumulators(conv: QuantizedKGSConv3d, width: int) -> list[int]:
        """The sums in each buffer of acc, for tiles of so many columns."""
        vectors = conv.group.g_m * INSTRUCTIONS[conv.instruction].parts // conv.tile.lanes
        return [conv.tile.lanes * width] * vectors

    @property
    def parts(self) -> int:
        """Sums of a filter."""
        return INSTRUCTIONS[self.conv.instruction].parts

    @property
    def lanes(self) -> int:
        """Of a vector of results."""
        return min(self.rows, self.conv.tile.lanes)

    @property
    def left(self):
        """The first output column."""
        return self.at.strip * self.conv.strips[0]

    def sums(self, b: int, i: int):
        """Where the sums of vector b at place i are: output column i."""
        lanes = self.conv.tile.lanes
        return self.acc[b], [T.Ramp(i * lanes, 1, lanes)]

    def sum_columns(self) -> None:
        """Add every kept column to the accumulators, which start at zero."""
        conv, args, lanes = self.conv, self.args, self.conv.tile.lanes
        vectors = range(self.rows * self.parts // lanes)
        self.clear(range(self.columns), vectors)
        first, last = self.kept()
        with T.serial(first, last) as j:
            inputs = self._inputs(args["offsets"][j] + self.here)
            bytes_of = CHANNELS * lanes // self.parts
            multiply = INSTRUCTIONS[conv.instruction].multiply
            for i, b in itertools.product(range(self.columns), vectors):
                w = args["blocks"][T.Ramp(self.weights_of(j) + b * bytes_of, 1, bytes_of)]
                buffer, index = self.sums(b, i)
                T.buffer_store(buffer, multiply(buffer[tuple(index)], inputs(i), w, lanes), index)

    def clear(self, places: range, vectors: range) -> None:
        """Set sums to zero."""
        zeros = T.Broadcast(tvm.tirx.const(0, "int32"), self.conv.tile.lanes)
        for i, b in itertools.product(places, vectors):
            buffer, index = self.sums(b, i)
            T.buffer_store(buffer, zeros, index)

    def kept(self) -> tuple:
        """The first of the kept columns, and the one behind the last."""
        pointers, first = self.args["pointers"], self.at.p * self.conv.kernel[0]
        begin, end = self.conv.valid_locations(self.at.d)
        return pointers[first + begin], pointers[first + end]

    def weights_of(self, j):
        """Where the weights of kept column j begin."""
        conv, weight = self.conv, j * (CHANNELS * self.rows)
        if self.rows == conv.group.g_m:
            return weight
        # In the last row block: those before it have g_m rows.
        before = self.args["pointers"][(conv.rows[0] - 1) * conv.kernel[0]]
        return weight + before * (CHANNELS * (conv.group.g_m - self.rows))

    @property
    def step(self) -> int:
        """From one output column's input to that of the next."""
        return self.conv.stride[2] * self.conv.x.strides(self.conv.data)[4]

    @property
    def here(self):
        """Where the tile reads, less the offset of a kept column."""
        conv, strides = self.conv, self.conv.x.strides(self.conv.data)
        d, h = self.at.d * conv.stride[0], self.at.x[1] * conv.stride[1]
        return d * strides[2] + h * strides[3] + self.left * self.step

    @property
    def firsts(self) -> list[int]:
        """The first of each four columns that are one vector, or none where they lie too far apart.

        Of the last ones those that end with the tile.
        """
        if self.step not in (CHANNELS, 2 * CHANNELS) or self.columns < 4:
            return []
        return [min(i, self.columns - 4) for i in range(0, self.columns, 4)]

    def fours(self, start) -> list:
        """For each of `firsts` a vector with the 4 bytes of four columns, as int32.

        Of columns that lie two positions apart it is every other one of two vectors side by side.
        The last ones begin a position earlier: what is behind them may be no memory of the
        tensor's. Where the tile has no column before them, the second vector overlaps the first.
        """
        if self.step == CHANNELS:
            return [self.read(start, i) for i in self.firsts]
        vectors = []
        for i in self.firsts:
            begins, chosen = (0, 4), [0, 2, 4, 6]
            if i + 4 == self.columns:
                begins, chosen = ((-1, 3), [1, 3, 5, 7]) if i else ((0, 3), [0, 2, 5, 7])
            halves = [self.read(start + at * CHANNELS, i) for at in begins]
            vectors.append(T.bind(tvm.tirx.Shuffle(halves, chosen)))
        return vectors

    def read(self, start, i: int, count: int = 4):
        """The 4 bytes of so many positions from column i on, as int32."""
        at = T.Ramp(start + i * self.step, 1, count * CHANNELS)
        lanes = f"x{count}" if count > 1 else ""
        values = self.args["x"][self.at.x[0], 0, 0, 0, 0, at]
        return T.bind(tvm.tirx.reinterpret(f"int32{lanes}", values))

    def _inputs(self, start):
        """A function from a column to its 4 bytes in every lane of as many filters."""
        x, lanes = self.args["x"], self.conv.tile.lanes // self.parts
        firsts = self.firsts
        if not self.conv.tile.by_element or not firsts:
            at = [self.at.x[0], 0, 0, 0, 0]
            return lambda i: broadcast(x, [*at, start + i * self.step], lanes)
        vectors = self.fours(start)

        def of_column(i: int):
            at = i // 4
            return T.Broadcast(tvm.tirx.Shuffle([vectors[at]], [i - firsts[at]]), lanes)

        return of_column

    def store(self) -> None:
        """Scale, round and store every result."""
        together = self.columns // 4 * 4 if self.stores_fours else 0
        runs = [range(i, i + 4) for i in range(0, together, 4)]
        runs += [range(i, i + 1) for i in range(together, self.columns)]
        for run, r in itertools.product(runs, range(self.rows // self.lanes)):
            self._store(run, r)

    @property
    def stores_fours(self) -> bool:
        """Whether results of four columns lie side by side, and are brought to 8 bits at once."""
        conv = self.conv
        narrowed = INSTRUCTIONS[conv.instruction].narrowed is not None and not conv.is_real
        return narrowed and self.lanes == conv.y.c_block == 4

    def _store(self, columns: range, r: int) -> None:
        """Of one column, or of four, the results of vector r."""
        conv, first = self.conv, self.at.p * self.conv.group.g_m + r * self.lanes
        results = Results(conv=conv, args=self.args, d=self.at.d, first=first, lanes=self.lanes)
        sums = [self._total(i, r) for i in columns]
        residual = [
            self._stored(conv.residual, i, r) if conv.added is not None else [] for i in columns
        ]
        at = self._stored(conv.y, columns[0], r)
        if len(columns) == 1:
            T.buffer_store(self.args["y"], results.of(sums[0], residual[0]), at)
            return
        values = [T.bind(results.scaled(*each)) for each in zip(sums, residual, strict=True)]
        *outer, column, lane = at
        run = T.Ramp(column * conv.y.c_block + lane.base, 1, 16)
        T.buffer_store(self.args["y"], results.of_four(values), [*outer, 0, run])

    def _total(self, i: int, r: int):
        """The sums of a vector of filters."""
        if self.parts == 1:
            buffer, index = self.sums(r, i)
            return buffer[tuple(index)]
        count = self.lanes * self.parts // self.conv.tile.lanes
        vectors = []
        for b in range(r * count, (r + 1) * count):
            buffer, index = self.sums(b, i)
            vectors.append(T.bind(buffer[tuple(index)]))
        index = np.arange(self.lanes * self.parts)
        even, odd = (tvm.tirx.Shuffle(vectors, index[k::2].tolist()) for k in (0, 1))
        return even + odd

    def _stored(self, layout, i: int, r: int) -> list:
        """Indices of vector r at column i in a tensor of the output's shape."""
        (n, h), channel = self.at.y, self.at.p * self.conv.group.g_m + r * self.lanes
        block, inner = channel // layout.c_block, channel % layout.c_block
        column = self.left + i + layout.halo_w
        lane = T.Ramp(inner, 1, self.lanes)
        return [n, block, self.at.d, h + layout.halo_h, column, lane]


class MatrixTile(QuantizedTile):
    """A tile of vectors that hold two filters by two output columns: place q has 2q and 2q + 1.

    Two kept columns are one step. Where output columns lie side by side, a load of four of them at
    each kept column makes the inputs of two places::

        x at j      0 1 2 3              place q      0j 0k 1j 1k
        x at k      0 1 2 3     ->       place q + 1  2j 2k 3j 3k
    """

    @staticmethod
    def accumulators(conv: QuantizedKGSConv3d, width: int) -> list[int]:
        """As in QuantizedTile."""
        return [2 * 2 * ceil_div(width, 2)] * (conv.group.g_m // 2)

    def sum_columns(self) -> None:
        """As in QuantizedTile."""
        args, lanes = self.args, self.conv.tile.lanes
        places, pairs = range(ceil_div(self.columns, 2)), range(self.rows // 2)
        self.clear(places, pairs)
        first, last = self.kept()
        bytes_of, multiply = CHANNELS * lanes, INSTRUCTIONS[self.conv.instruction].multiply
        with T.serial(first // 2, last // 2) as pair:
            weights = [
                T.bind(
                    args["blocks"][T.Ramp(self.weights_of(2 * pair) + b * bytes_of, 1, bytes_of)]
                )
                for b in pairs
            ]
            inputs = self._inputs_of_places(2 * pair)
            for q, b in itertools.product(places, pairs):
                buffer, index = self.sums(b, q)
                total = multiply(buffer[tuple(index)], inputs(q), weights[b], lanes)
                T.buffer_store(buffer, total, index)

    def _inputs_of_places(self, j):
        """A function from a place to its inputs at the kept columns j and j + 1."""
        starts, firsts = [self.args["offsets"][j + k] + self.here for k in range(2)], self.firsts
        if not firsts:
            single = [[self.read(start, i, 1) for start in starts] for i in range(self.columns)]

            def apart(q: int):
                here = [single[min(i, self.columns - 1)] for i in (2 * q, 2 * q + 1)]
                return tvm.tirx.Shuffle([*here[0], *here[1]], [0, 1, 2, 3])

            return apart
        vectors = list(zip(*(self.fours(start) for start in starts), strict=True))

        def of_place(q: int):
            at = 2 * q // 4
            within = [min(i, self.columns - 1) - firsts[at] for i in (2 * q, 2 * q + 1)]
            return tvm.tirx.Shuffle(vectors[at], [k + 4 * j for k in within for j in range(2)])

        return of_place

    def _total(self, i: int, r: int):
        """The sums of four filters at a column: of two vectors the lanes that are that column's."""
        vectors = []
        for b in (2 * r, 2 * r + 1):
            buffer, index = self.sums(b, i // 2)
            vectors.append(T.bind(buffer[tuple(index)]))
        return tvm.tirx.Shuffle(
            vectors, [4 * b + 2 * m + i % 2 for b in range(2) for m in range(2)]
        )
