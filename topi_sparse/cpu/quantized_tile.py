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
one instruction, and all of acc stays in registers.
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

if TYPE_CHECKING:
    from topi_sparse.cpu.quantized_kgs_conv3d import QuantizedKGSConv3d


def quantized_tile(conv: QuantizedKGSConv3d, args: Mapping, at: At) -> None:
    """One register tile, within a block of its own; ``args`` by parameter name."""
    count_p, last_rows = conv.rows
    width, strips, rest = conv.strips
    parts = INSTRUCTIONS[conv.instruction].parts
    acc = [
        T.sblock_alloc_buffer((conv.tile.lanes * width,), "int32", layout=None)
        for _ in range(conv.group.g_m * parts // conv.tile.lanes)
    ]

    def of_rows(rows: int) -> None:
        def of_columns(columns: int) -> None:
            tile = QuantizedTile(conv=conv, args=args, acc=acc, at=at, rows=rows, columns=columns)
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
        """Where the sums of vector b at column i are."""
        lanes = self.conv.tile.lanes
        return self.acc[b], [T.Ramp(i * lanes, 1, lanes)]

    def sum_columns(self) -> None:
        """Add every kept column to the accumulators, which start at zero."""
        conv, args, at, lanes = self.conv, self.args, self.at, self.conv.tile.lanes
        vectors = range(self.rows * self.parts // lanes)
        for i, b in itertools.product(range(self.columns), vectors):
            buffer, index = self.sums(b, i)
            T.buffer_store(buffer, T.Broadcast(tvm.tirx.const(0, "int32"), lanes), index)
        (n, h), d = at.x, at.d
        pointers, first = args["pointers"], at.p * conv.kernel[0]
        kd_begin, kd_end = conv.valid_locations(d)
        strides = conv.x.strides(conv.data)
        steps = [step * stride for step, stride in zip(conv.stride, strides[2:], strict=False)]
        here = d * steps[0] + h * steps[1] + self.left * steps[2]
        with T.serial(pointers[first + kd_begin], pointers[first + kd_end]) as j:
            weight = j * (CHANNELS * self.rows)
            if self.rows < conv.group.g_m:  # the last row block: those before it have g_m rows
                before = pointers[(conv.rows[0] - 1) * conv.kernel[0]]
                weight = weight + before * (CHANNELS * (conv.group.g_m - self.rows))
            inputs = self._inputs(n, args["offsets"][j] + here, steps[2])
            bytes_of = CHANNELS * lanes // self.parts
            multiply = INSTRUCTIONS[conv.instruction].multiply
            for i, b in itertools.product(range(self.columns), vectors):
                w = args["blocks"][T.Ramp(weight + b * bytes_of, 1, bytes_of)]
                buffer, index = self.sums(b, i)
                T.buffer_store(buffer, multiply(buffer[tuple(index)], inputs(i), w, lanes), index)

    def _inputs(self, n, start, step: int):
        """A function from a column to its 4 bytes in every lane of as many filters."""
        x, lanes = self.args["x"], self.conv.tile.lanes // self.parts
        if not self.conv.tile.by_element or step != CHANNELS or self.columns < 4:
            return lambda i: broadcast(x, [n, 0, 0, 0, 0, start + i * step], lanes)
        # Four columns lie side by side: of the last ones those that end with the tile.
        firsts = [min(i, self.columns - 4) for i in range(0, self.columns, 4)]
        vectors = [
            T.bind(
                tvm.tirx.reinterpret(
                    "int32x4", x[n, 0, 0, 0, 0, T.Ramp(start + i * step, 1, 4 * CHANNELS)]
                )
            )
            for i in firsts
        ]

        def of_column(i: int):
            at = i // 4
            return T.Broadcast(tvm.tirx.Shuffle([vectors[at]], [i - firsts[at]]), lanes)

        return of_column

    def store(self) -> None:
        """Scale, round and store every result."""
        conv, at = self.conv, self.at
        for i in range(self.columns):
            for r in range(self.rows // self.lanes):
                first = at.p * conv.group.g_m + r * self.lanes
                results = Results(conv=conv, args=self.args, d=at.d, first=first, lanes=self.lanes)
                residual = self._stored(conv.residual, i, r) if conv.added is not None else []
                value = results.of(self._total(i, r), residual)
                T.buffer_store(self.args["y"], value, self._stored(conv.y, i, r))

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
