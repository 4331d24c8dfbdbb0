"""Slices, pads, shuffles and joints of packed tensors: values of the inputs at other places."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from tvm import tirx

from topi_sparse.layout import PackedLayout
from topi_sparse.packed_nest import Shape, compute, guarded, inside, placeholder, prim_func


def strided_slice(
    data: Shape,
    x: PackedLayout,
    y: PackedLayout,
    dtype: str,
    *,
    out: Shape,
    begin: Sequence[int],
    stride: Sequence[int],
) -> tirx.PrimFunc:
    """From ``begin`` on in steps of ``stride`` along each axis; both of (B, C, D, H, W).

    Channels that begin with a block and are neighbours are copied by the block, else by the lane.
    """
    c_block = y.c_block
    whole_blocks = stride[1] == 1 and begin[1] % c_block == 0

    def moved(n, block, d, h, w, c):
        at = [
            first + step * index
            for first, step, index in zip(
                begin, stride, (n, block * c_block + c, d, h, w), strict=True
            )
        ]
        blocks = (at[1] // c_block, at[1] % c_block)
        if whole_blocks:
            blocks = (block + begin[1] // c_block, c)
        return (at[0], *blocks, *at[2:])

    return _moved(data, x, y, dtype, out, moved)


def pad(
    data: Shape,
    x: PackedLayout,
    y: PackedLayout,
    dtype: str,
    *,
    out: Shape,
    before: Sequence[int],
    value: float,
) -> tirx.PrimFunc:
    """``value`` before the input and behind it along each axis; both of (B, C, D, H, W).

    Channels behind whole blocks are copied by the block, else by the lane.
    """
    c_block = y.c_block
    padded = [axis for axis in range(5) if data[axis] != out[axis]]

    def moved(n, block, d, h, w, c):
        channel = block * c_block + c
        at = [index - first for first, index in zip(before, (n, channel, d, h, w), strict=True)]
        blocks = (at[1] // c_block, at[1] % c_block)
        if before[1] % c_block == 0:
            blocks = (block - before[1] // c_block, c)
        return (at[0], *blocks, *at[2:])

    def within(n, block, d, h, w, c):
        places = (n, block * c_block + c, d, h, w)
        return [
            condition
            for axis in padded
            for condition in (
                places[axis] >= before[axis],
                places[axis] < before[axis] + data[axis],
            )
        ]

    return _moved(data, x, y, dtype, out, moved, within=within, other=value)


def permuted(
    data: Shape, x: PackedLayout, y: PackedLayout, dtype: str, *, order: Sequence[int]
) -> tirx.PrimFunc:
    """The axes of the input in another order of (B, C, D, H, W), in which B and C keep theirs."""

    def moved(n, block, d, h, w, c):
        at = dict(zip(order, (n, c, d, h, w), strict=True))
        return (n, block, *(at[axis] for axis in range(1, 5)))

    return _moved(data, x, y, dtype, tuple(data[axis] for axis in order), moved)


def shuffle(
    data: Shape, x: PackedLayout, y: PackedLayout, dtype: str, *, groups: int
) -> tirx.PrimFunc:
    """Channel g * n + i of the input to channel i * ``groups`` + g, n being those of a group."""
    size = data[1] // groups

    def moved(n, block, d, h, w, c):
        channel = block * y.c_block + c
        source = channel % groups * size + channel // groups
        return (n, source // x.c_block, source % x.c_block, d, h, w)

    return _moved(data, x, y, dtype, data, moved)


def joined(
    data: Sequence[Shape],
    layouts: Sequence[PackedLayout],
    y: PackedLayout,
    dtype: str,
    *,
    axis: int,
) -> tirx.PrimFunc:
    """One after the other along an axis of (B, C, D, H, W) that is not the channels'."""
    inputs = [
        placeholder(layout.shape(part), dtype, f"x{i}")
        for i, (part, layout) in enumerate(zip(data, layouts, strict=True))
    ]
    ends = list(itertools.accumulate(part[axis] for part in data))
    whole = (*data[0][:axis], ends[-1], *data[0][axis + 1 :])

    def value(n, block, d, h, w, c):
        place = (n, block, d, h - y.halo_h, w - y.halo_w)

        def read(i: int):
            at = [*place]
            at[axis] -= ends[i] - data[i][axis]
            halo = layouts[i]
            here = inputs[i][at[0], at[1], at[2], at[3] + halo.halo_h, at[4] + halo.halo_w, c]
            if i + 1 == len(inputs):
                return here
            return tirx.if_then_else(place[axis] < ends[i], here, read(i + 1))

        return guarded(inside(y, whole, h, w), lambda: read(0), tirx.const(y.fill, dtype))

    return prim_func(inputs, compute(y.shape(whole), value, "joined"))


def _moved(
    data: Shape,
    x: PackedLayout,
    y: PackedLayout,
    dtype: str,
    out: Shape,
    moved: Callable,
    *,
    within: Callable = lambda *_place: [],
    other: float = 0.0,
) -> tirx.PrimFunc:
    """``moved``: of a place in the result, where it is in the input: batch, block, lane ...

    ``within``: the conditions under which it is there; elsewhere is ``other``.
    """
    a, fill = placeholder(x.shape(data), dtype, "x"), tirx.const(y.fill, dtype)

    def value(n, block, d, h, w, c):
        conditions = inside(y, out, h, w)
        if out[1] % y.c_block:
            conditions.append(block * y.c_block + c < out[1])

        place = (n, block, d, h - y.halo_h, w - y.halo_w, c)

        def read():
            at = moved(*place)
            return a[at[0], at[1], at[3], at[4] + x.halo_h, at[5] + x.halo_w, at[2]]

        def one():
            return guarded(within(*place), read, tirx.const(other, dtype))

        return guarded(conditions, one, fill)

    return prim_func([a], compute(y.shape(out), value, "moved"))
