"""The register tile of opencl_kgs_conv3d: a work-item's filters at its positions.

The algorithm, for one part of a row block p at positions ``here`` of plane d::

    for i in positions:
        for m in filters of the work-item:
            acc[i, m] = bias[m]
    for j in kept columns of p whose plane exists:
        for n in channels of the group:
            for i in positions:
                for m in filters of the work-item:
                    acc[i, m] += x[offsets[j] + here[i] + n] * blocks[j, n, m]
    for i in positions that are stored:
        for m in filters of the work-item:
            y[i, m] = relu(acc[i, m] + residual[i, m])

The tile: the loops over n, i and m are unrolled, and m (or m and n) runs over the lanes of vectors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tvm
from tvm.tirx.script.builder import ir as T

from topi_sparse.layout import ceil_div
from topi_sparse.opencl.sources import BufferSource, TextureSource
from topi_sparse.opencl.work_item import VECTOR

if TYPE_CHECKING:
    from topi_sparse.opencl.kgs_conv3d import OpenCLKGSConv3d


def compute_item(conv: OpenCLKGSConv3d, args: Mapping, acc: list, position: list) -> None:
    """Start from the bias, add every kept column of the row block, finish, store.

    acc: for each position a list of vectors of accumulators. position: batch, row block, part of
    it, plane and work-item.
    """
    tile = ItemTile.at(conv, args, acc, position)
    _start(tile)
    here = tile.places()
    pointers, kd_range = args["pointers"], conv.valid_locations(tile.d)
    begin, end = (T.bind(pointers[tile.p * conv.kernel[0] + kd]) for kd in kd_range)
    if conv.fetches_ahead:
        _fetch_ahead(tile, here, begin, end)
    with T.serial(begin, end) as j:
        _add_column(tile, here, j)
    for i in range(conv.width):
        _finish(tile, i)


@dataclass(frozen=True, kw_only=True)
class ItemTile:
    """One work-item: its accumulators and its positions.

    flat     its positions, numbers in a plane
    outside  whether each of them may be behind the last one
    source   what its input is read through
    """

    conv: OpenCLKGSConv3d
    args: Mapping
    acc: list
    n: object
    p: object
    d: object
    part: object
    flat: list
    outside: list[bool]
    source: BufferSource | TextureSource

    @classmethod
    def at(cls, conv: OpenCLKGSConv3d, args: Mapping, acc: list, position: list) -> ItemTile:
        """The work-item at (batch, row block, part of it, plane, work-item)."""
        n, p, part, d, item = position
        width = conv.width
        if conv.in_rows:  # the last work-item of a row begins early enough to end with it
            in_row = ceil_div(conv.row_length, width)
            first_column = T.min(item % in_row * width, conv.row_length - width)
            first = T.bind(item // in_row * conv.row_length + first_column)
        elif conv.adjacent:  # of a plane
            first = T.bind(T.min(item * width, conv.positions - width))
        if conv.adjacent:
            flat, outside = [first + i for i in range(width)], [False] * width
        else:
            flat = [item + i * conv.items for i in range(width)]
            outside = [conv.items * (i + 1) > conv.positions for i in range(width)]
        source = (TextureSource if conv.texture else BufferSource)(conv, args, n, d)
        return cls(
            conv=conv,
            args=args,
            acc=acc,
            n=n,
            p=p,
            d=d,
            part=part,
            flat=flat,
            outside=outside,
            source=source,
        )

    @property
    def vectors(self) -> range:
        """Vectors of accumulators at a position."""
        return range(self.conv.tile.vectors(self.conv.rows_per_item))

    @property
    def first_row(self):
        """The first filter."""
        return self.p * self.conv.group.g_m + self.part * self.conv.rows_per_item

    def places(self) -> list:
        """Where the window of each position starts in the input."""
        here: list = []
        for position, may_be_outside in zip(self.flat, self.outside, strict=True):
            if self.conv.in_rows and here:
                here.append(self.source.beside(here[0], len(here)))
                continue
            if may_be_outside:
                position = T.min(position, self.conv.positions - 1)
            here.append(self.source.place(position))
        return here

    def bias(self, row, count: int):
        """So many biases from a filter on."""
        return self.args["bias"][T.Ramp(row, 1, count)]

    def to_sum(self, value, stored: str, count: int):
        """A vector in the type of the sums."""
        accumulate = self.conv.accumulate
        return value if stored == accumulate else tvm.tirx.Cast(f"{accumulate}x{count}", value)

    def activations(self, kept, at):
        """Four channels of a kept column at a place."""
        return T.bind(self.to_sum(self.source.vector(kept, at), self.conv.dtype, VECTOR))


def _start(tile: ItemTile) -> None:
    """The bias, or zero where channels share the lanes."""
    conv, lanes = tile.conv, tile.conv.tile.lanes
    zero = T.Broadcast(tvm.tirx.const(0, conv.accumulate), lanes)
    for i in range(conv.width):
        for b in tile.vectors:
            apart = conv.tile.channels > 1
            start = zero if apart else tile.bias(tile.first_row + b * lanes, lanes)
            T.buffer_store(tile.acc[i][b], start, [T.Ramp(0, 1, lanes)])


def _fetch_ahead(tile: ItemTile, here: list, begin, end) -> None:
    """Ask for the neighbour's activations, and for the lines that are stored to."""
    conv, args, width = tile.conv, tile.args, tile.conv.width

    def prefetch(element, count: int) -> None:
        """Ask for so many vectors from this element on."""
        address = T.address_of(element)
        T.evaluate(T.call_extern("void", "prefetch", address, count * VECTOR))

    row, column = tile.flat[0] // conv.row_length, tile.flat[0] % conv.row_length
    blocks = conv.y.shape(conv.out)[1]
    for quarter in range(conv.rows_per_item // VECTOR if conv.fetches_stores else 0):
        block = T.min(tile.first_row // VECTOR + quarter, blocks - 1)
        for name, layout in (("y", conv.y), ("residual", conv.residual)):
            if layout:
                at = (tile.n, block, tile.d, row + layout.halo_h, column + layout.halo_w)
                prefetch(args[name][(*at, 0)], width)
    with T.serial(begin, end) as j:
        neighbour = args["offsets"][j] + tile.source.beside(here[0], width)
        prefetch(args["x"][0, 0, 0, 0, 0, neighbour * VECTOR], width * tile.source.step)


def _add_column(tile: ItemTile, here: list, j) -> None:
    """Kept column j, for every position."""
    conv, args, (g_m, g_n) = tile.conv, tile.args, (tile.conv.group.g_m, tile.conv.group.g_n)
    lanes, channels = conv.tile.lanes, conv.tile.channels
    lane = T.Ramp(0, 1, lanes)
    kept = tile.source.kept(j)
    # Where lanes of them are multiplied, or all of a texel is read. Else they are needed once,
    # one position after the other: loaded all at first they would take the sums' registers.
    at_first = conv.tile.by_element or (conv.texture and channels == 1)
    loaded = [tile.activations(kept, at) for at in here] if at_first else []
    for first in range(0, g_n, channels):
        weights = []
        for b in tile.vectors:
            at = (j * g_n + first) * g_m + tile.part * conv.rows_per_item * channels + b * lanes
            stored = args["blocks"][T.Ramp(at, 1, lanes)]
            weights.append(T.bind(tile.to_sum(stored, conv.weight_dtype, lanes)))
        for i, at in enumerate(here):
            if at_first:
                value = T.Broadcast(tvm.tirx.Shuffle([loaded[i]], [first]), lanes)
            elif channels == 1:
                number = tile.source.number(kept, at, first).astype(conv.accumulate)
                # Bound, since TVM writes what is broadcast once for each lane.
                value = T.Broadcast(T.bind(number), lanes)
            else:
                value = _for_each_filter(conv, tile.activations(kept, at))
            for b in tile.vectors:
                total = tile.acc[i][b][lane] + value * weights[b]
                T.buffer_store(tile.acc[i][b], total, [lane])


def _finish(tile: ItemTile, i: int) -> None:
    """Add up the channels of position i, and store what is inside."""
    conv, position, channels = tile.conv, tile.flat[i], tile.conv.tile.channels
    filters, blocks = conv.tile.lanes // channels, conv.y.shape(conv.out)[1]
    row, column = position // conv.row_length, position % conv.row_length
    conditions = []
    if tile.outside[i]:
        conditions.append(position < conv.positions)
    if conv.row_length > conv.out[4]:
        conditions.append(column < conv.out[4])
    with _where(conditions):
        for b in tile.vectors:
            for quarter in range(filters // VECTOR):
                value = tile.acc[i][b][T.Ramp(quarter * VECTOR * channels, channels, VECTOR)]
                for channel in range(1, channels):
                    start = quarter * VECTOR * channels + channel
                    value = value + tile.acc[i][b][T.Ramp(start, channels, VECTOR)]
                if channels > 1:
                    first = tile.first_row + b * filters + quarter * VECTOR
                    value = value + tile.bias(first, VECTOR)
                block = tile.first_row // VECTOR + b * (filters // VECTOR) + quarter
                beyond = conv.stored_filters > blocks * VECTOR
                with _where([block < blocks] if beyond else []):
                    _store(conv, tile.args, value, [tile.n, block, tile.d], row, column)


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
    value = conv.finished(value, lanes=VECTOR, dtype=conv.accumulate)
    T.buffer_store(args["y"], cast(f"{conv.dtype}x{VECTOR}", value), stored(conv.y))


@contextlib.contextmanager
def _where(conditions: list) -> Iterator[None]:
    """Guard what is emitted inside by all conditions; without any it is emitted as it is."""
    if not conditions:
        yield
        return
    with T.If(tvm.tirx.all(*conditions)), T.Then():
        yield
