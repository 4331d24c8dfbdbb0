"""The operators between convolutions, on packed activations (PackedLayout), as TE computes.

Every one writes its layout's fill into the halo and above C of its result, so that a convolution
can read it without a guard. Shapes called ``data`` are those of the plain tensor, (B, C, D, H, W).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from tvm import te, tirx

from topi_sparse.layout import PackedLayout
from topi_sparse.packed_nest import (
    Shape,
    compute,
    guarded,
    inside,
    nest_of,
    placeholder,
    prim_func,
    reduce_axis,
)

# max_pool3d writes its window out tap by tap; above this the code outgrows the instruction cache.
MAX_POOL_TAPS = 64
# 1.5 * 2**23: float32 has steps of 1 from 2**23 to 2**24.
WHOLE, WHOLE_BITS = 12582912.0, 0x4B400000


def pack(
    data: Shape, layout: PackedLayout, dtype: str, *, plain: str | None = None
) -> tirx.PrimFunc:
    """Plain (B, C, D, H, W) to packed values of ``dtype``; ``plain`` is the plain one's type."""
    x = placeholder(data, plain or dtype, "x")
    c_block = layout.c_block

    def value(n, block, d, h, w, c):
        channel = block * c_block + c
        conditions = inside(layout, data, h, w)
        if data[1] % c_block:
            conditions.append(channel < data[1])
        return guarded(
            conditions,
            lambda: x[n, channel, d, h - layout.halo_h, w - layout.halo_w].astype(dtype),
            tirx.const(layout.fill, dtype),
        )

    return prim_func([x], compute(layout.shape(data), value, "packed"))


def unpack(
    data: Shape, layout: PackedLayout, dtype: str, *, plain: str | None = None
) -> tirx.PrimFunc:
    """Packed values of ``dtype`` to plain (B, C, D, H, W), of type ``plain`` if it is another."""
    x = placeholder(layout.shape(data), dtype, "x")
    c_block = layout.c_block
    y = compute(
        data,
        lambda n, c, d, h, w: x[
            n, c // c_block, d, h + layout.halo_h, w + layout.halo_w, c % c_block
        ].astype(plain or dtype),
        "plain",
    )
    return prim_func([x], y)


def concat(
    data: Sequence[Shape], layouts: Sequence[PackedLayout], y: PackedLayout, dtype: str
) -> tirx.PrimFunc:
    """Along the channels.

    Where every part but the last fills its channel blocks, blocks are copied whole; else lane by
    lane, which takes several times as long.
    """
    inputs = [
        placeholder(layout.shape(part), dtype, f"x{i}")
        for i, (part, layout) in enumerate(zip(data, layouts, strict=True))
    ]
    whole = (data[0][0], sum(part[1] for part in data), *data[0][2:])
    c_block = y.c_block
    ends = list(itertools.accumulate(part[1] for part in data))
    by_block = all(end % c_block == 0 for end in ends[:-1])

    def value(n, block, d, h, w, c):
        def read(i: int):
            row = h - y.halo_h + layouts[i].halo_h
            column = w - y.halo_w + layouts[i].halo_w
            first = ends[i] - data[i][1]
            channel = block * c_block + c - first
            if by_block:
                here = inputs[i][n, block - first // c_block, d, row, column, c]
                is_here = block < ends[i] // c_block
            else:
                here = inputs[i][n, channel // c_block, d, row, column, channel % c_block]
                is_here = channel < data[i][1]
            return here if i + 1 == len(inputs) else tirx.if_then_else(is_here, here, read(i + 1))

        conditions = inside(y, whole, h, w)
        if not by_block and whole[1] % c_block:
            conditions.append(block * c_block + c < whole[1])
        return guarded(conditions, lambda: read(0), tirx.const(y.fill, dtype))

    return prim_func(inputs, compute(y.shape(whole), value, "concat"))


def max_pool3d(
    data: Shape,
    x: PackedLayout,
    y: PackedLayout,
    dtype: str,
    *,
    out: Shape,
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> tirx.PrimFunc:
    """Maximum over a window; padding counts as minus infinity.

    A tap that falls outside is moved to the nearest one inside. That one is in the window as well,
    since the taps are neighbours, so the maximum stays the same and no guard is needed.
    """
    a = placeholder(x.shape(data), dtype, "x")

    def value(n, block, d, h, w, c):
        taps = (
            a[
                n,
                block,
                _clamped(position(0, d, kd), data[2]),
                _clamped(position(1, h - y.halo_h, kh), data[3]) + x.halo_h,
                _clamped(position(2, w - y.halo_w, kw), data[4]) + x.halo_w,
                c,
            ]
            for kd, kh, kw in itertools.product(*(range(k) for k in window))
        )
        return guarded(
            inside(y, out, h, w),
            lambda: functools.reduce(te.max, taps),
            tirx.const(y.fill, dtype),
        )

    def position(axis: int, index, k: int):
        return index * stride[axis] + k - padding[axis]

    def _clamped(index, extent: int):
        return te.max(te.min(index, extent - 1), 0)

    return prim_func([a], compute(y.shape(out), value, "max_pool3d"))


def avg_pool3d(
    data: Shape,
    x: PackedLayout,
    y: PackedLayout,
    dtype: str,
    *,
    out: Shape,
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] = (0, 0, 0),
    counts_padding: bool = False,
) -> tirx.PrimFunc:
    """Mean over a window, accumulated in float32.

    padding: zeros before the first plane, row and column; counts_padding: whether they count.
    """
    a = placeholder(x.shape(data), dtype, "x")
    reaches_out = [
        before > 0 or (o - 1) * step - before + k > size
        for before, o, step, k, size in zip(padding, out[2:], stride, window, data[2:], strict=True)
    ]

    def tap(n, block, d, h, w, c, *taps):
        along = zip((d, h, w), stride, taps, padding, strict=True)
        at = [index * step + k - before for index, step, k, before in along]
        conditions = []
        for index, size, outside in zip(at, data[2:], reaches_out, strict=True):
            conditions += [index >= 0, index < size] if outside else []
        return guarded(
            conditions,
            lambda: a[n, block, at[0], at[1] + x.halo_h, at[2] + x.halo_w, c].astype("float32"),
            tirx.const(0, "float32"),
        )

    axes = [reduce_axis(k, name) for k, name in zip(window, ("kd", "kh", "kw"), strict=True)]
    batch, blocks, depth = y.shape(out)[:3]
    total = compute(
        (batch, blocks, depth, *out[3:], x.c_block),
        lambda *index: te.sum(tap(*index, *axes), axis=axes),
        "total",
    )

    def share(*index):
        """1 over how many positions of a window count."""
        counts = window
        if not counts_padding and any(reaches_out):
            along = zip(index, stride, padding, window, data[2:], strict=True)
            counts = [_inside_of_window(*each) for each in along]
        return _inverse(counts[0] * counts[1] * counts[2])

    def value(n, block, d, h, w, c):
        row, column = h - y.halo_h, w - y.halo_w
        return guarded(
            inside(y, out, h, w),
            lambda: (total[n, block, d, row, column, c] * share(d, row, column)).astype(dtype),
            tirx.const(y.fill, dtype),
        )

    return prim_func([a], compute(y.shape(out), value, "avg_pool3d"))


def _inside_of_window(index, step: int, before: int, k: int, size: int):
    """Positions of a window along an axis that are in the input."""
    first = index * step - before
    return te.min(first + k, size) - te.max(first, 0)


def _inverse(count):
    one = tirx.const(1.0, "float32")
    return (
        tirx.const(1.0 / count, "float32")
        if isinstance(count, int)
        else one / count.astype("float32")
    )


def quantize(
    data: Shape, x: PackedLayout, y: PackedLayout, dtype: str, *, scale: float, result: str
) -> tirx.PrimFunc:
    """``dtype``, float32 or float16, to ``result``, uint8 or int8, whose zero is ``y.fill``."""
    return nest_of(
        [(data, x)],
        data,
        y,
        dtype,
        lambda a: quantized(a, scale=scale, zero=y.fill, dtype=result),
        result=result,
    )


def dequantize(
    data: Shape, x: PackedLayout, y: PackedLayout, *, scale: float, dtype: str
) -> tirx.PrimFunc:
    """``dtype``, whose zero point is ``x.fill``, to float32."""
    return nest_of(
        [(data, x)],
        data,
        y,
        dtype,
        lambda a: dequantized(a, scale=scale, zero=x.fill),
        result="float32",
    )


def quantized(value, *, scale: float, zero: int, dtype: str):
    """value / scale in float32, rounded to the nearest even and moved by the zero point, within the
    type.
    """
    low, high = (
        tirx.const(float(int(limit(dtype).value) - zero), "float32")
        for limit in (tirx.min_value, tirx.max_value)
    )
    steps = value.astype("float32") / tirx.const(scale, "float32")
    steps = te.max(te.min(steps, high), low)
    # A sum has no digits below 1 there, and its last bits count the steps. (TVM's vectoriser visits
    # what nearbyint takes twice, and ends on a second quantisation inside.)
    bits = tirx.reinterpret("int32", steps + tirx.const(WHOLE, "float32"))
    return (bits + tirx.const(zero - WHOLE_BITS, "int32")).astype(dtype)


def dequantized(value, *, scale: float, zero: int):
    """(value - zero point) * scale as float32."""
    steps = value.astype("int32") - tirx.const(zero, "int32")
    return steps.astype("float32") * tirx.const(scale, "float32")
