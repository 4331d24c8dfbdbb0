"""Slices and channel shuffles of packed tensors: each value of the result is one of the input's."""

from __future__ import annotations

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


def _moved(
    data: Shape, x: PackedLayout, y: PackedLayout, dtype: str, out: Shape, moved: Callable
) -> tirx.PrimFunc:
    """``moved``: of a place in the result, where it is in the input: batch, block, lane ..."""
    a, fill = placeholder(x.shape(data), dtype, "x"), tirx.const(y.fill, dtype)

    def value(n, block, d, h, w, c):
        conditions = inside(y, out, h, w)
        if out[1] % y.c_block:
            conditions.append(block * y.c_block + c < out[1])

        def read():
            at = moved(n, block, d, h - y.halo_h, w - y.halo_w, c)
            return a[at[0], at[1], at[3], at[4] + x.halo_h, at[5] + x.halo_w, at[2]]

        return guarded(conditions, read, fill)

    return prim_func([a], compute(y.shape(out), value, "moved"))
