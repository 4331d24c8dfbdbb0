"""Reductions of packed tensors along the channels too, and softmax, as TE computes.

Along the channels a sum is over blocks and lanes; those above C count for nothing, whatever they
hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import te, tirx

from topi_sparse.elementwise import computed
from topi_sparse.layout import PackedLayout
from topi_sparse.packed_nest import (
    Shape,
    compute,
    guarded,
    inside,
    placeholder,
    prim_func,
    reduce_axis,
)


def mean(
    data: Shape, x: PackedLayout, y: PackedLayout, dtype: str, *, axes: Sequence[int] = (2, 3, 4)
) -> tirx.PrimFunc:
    """Mean over some of C, D, H and W, kept as axes of extent 1; accumulated in float32::

    y[n, c, d, h, w] = sum(x[n, c', d', h', w']) / count
    """
    reduction = _Reduction(data, x, dtype, axes)
    total = reduction.over(te.sum, lambda value, _index: value, tirx.const(0, "float32"), "total")
    scale = tirx.const(1.0 / math.prod(data[axis] for axis in axes), "float32")
    out = tuple(1 if axis in axes else extent for axis, extent in enumerate(data))

    def value(n, block, d, h, w, c):
        place = (n, block, d, h - y.halo_h, w - y.halo_w, c)
        conditions = inside(y, out, h, w) + ([c < 1] if 1 in axes else [])
        return guarded(
            conditions,
            lambda: (total(*reduction.kept(place)) * scale).astype(dtype),
            tirx.const(y.fill, dtype),
        )

    return prim_func([reduction.tensor], compute(y.shape(out), value, "mean"))


def softmax(
    data: Shape, x: PackedLayout, y: PackedLayout, dtype: str, *, axis: int
) -> tirx.PrimFunc:
    """exp(x - max) over its sum along one of C, D, H and W; in float32."""
    reduction = _Reduction(data, x, dtype, [axis])
    least = tirx.const(-math.inf, "float32")
    largest = reduction.over(te.max, lambda value, _index: value, least, "largest")

    def power(value, index):
        return computed("exp", value - largest(*reduction.kept(index)))

    total = reduction.over(te.sum, power, tirx.const(0, "float32"), "total")

    def value(n, block, d, h, w, c):
        place = (n, block, d, h - y.halo_h, w - y.halo_w, c)
        conditions = inside(y, data, h, w)
        if data[1] % y.c_block:
            conditions.append(block * y.c_block + c < data[1])
        return guarded(
            conditions,
            lambda: (power(reduction.read(place), place) / total(*reduction.kept(place))).astype(
                dtype
            ),
            tirx.const(y.fill, dtype),
        )

    return prim_func([reduction.tensor], compute(y.shape(data), value, "softmax"))


class _Reduction:
    """Of a packed tensor along some axes: its values, and what becomes of the places that are left.

    A place is (batch, block, d, h, w, lane). Where C is among the axes, neither block nor lane is
    left.
    """

    def __init__(self, data: Shape, x: PackedLayout, dtype: str, axes: Sequence[int]) -> None:
        self.tensor = placeholder(x.shape(data), dtype, "x")
        self.data, self.x, self.axes = data, x, axes
        stored = (data[0], x.shape(data)[1], *data[2:], x.c_block)
        gone = {axis for axis in axes if axis != 1} | ({1, 5} if 1 in axes else set())
        self.extents = {axis: stored[axis] for axis in sorted(gone)}
        self.shape = [extent for axis, extent in enumerate(stored) if axis not in gone]

    def read(self, place: Sequence):
        """The value at a place, as float32."""
        n, block, d, h, w, lane = place
        return self.tensor(n, block, d, h + self.x.halo_h, w + self.x.halo_w, lane).astype(
            "float32"
        )

    def kept(self, place: Sequence) -> list:
        """What of a place is left."""
        return [index for axis, index in enumerate(place) if axis not in self.extents]

    def over(self, combined: Callable, function: Callable, neutral, name: str):
        """``function`` of all values and their places, ``combined``; ``neutral`` above C."""

        def value(*left):
            along = {axis: reduce_axis(n, "nbdhwc"[axis]) for axis, n in self.extents.items()}
            rest = iter(left)
            place = [along[axis].var if axis in along else next(rest) for axis in range(6)]
            one = function(self.read(place), place)
            if 1 in self.axes and self.data[1] % self.x.c_block:
                one = tirx.Select(place[1] * self.x.c_block + place[5] < self.data[1], one, neutral)
            return combined(one, axis=list(along.values()))

        return compute(self.shape, value, name)
