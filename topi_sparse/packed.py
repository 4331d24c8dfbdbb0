"""The operators between convolutions, on packed activations (PackedLayout), as TE computes.

Every one writes its layout's fill into the halo and above C of its result, so that a convolution
can read it without a guard. Shapes called ``data`` are those of the plain tensor, (B, C, D, H, W).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

from tvm import te, tirx

from topi_sparse.activation import upper_bound
from topi_sparse.layout import PackedLayout

Shape = tuple[int, int, int, int, int]
# max_pool3d writes its window out tap by tap; above this the code outgrows the instruction cache.
MAX_POOL_TAPS = 64
# 1.5 * 2**23: float32 has steps of 1 from 2**23 to 2**24.
WHOLE, WHOLE_BITS = 12582912.0, 0x4B400000


def pack(
    data: Shape, layout: PackedLayout, dtype: str, *, plain: str | None = None
) -> tirx.PrimFunc:
    """Plain (B, C, D, H, W) to packed values of ``dtype``; ``plain`` is the plain one's type."""
    x = _placeholder(data, plain or dtype, "x")
    c_block = layout.c_block

    def value(n, block, d, h, w, c):
        channel = block * c_block + c
        inside = _inside(layout, data, h, w)
        if data[1] % c_block:
            inside.append(channel < data[1])
        return _guarded(
            inside,
            lambda: x[n, channel, d, h - layout.halo_h, w - layout.halo_w].astype(dtype),
            tirx.const(layout.fill, dtype),
        )

    return _prim_func([x], _compute(layout.shape(data), value, "packed"))


def unpack(
    data: Shape, layout: PackedLayout, dtype: str, *, plain: str | None = None
) -> tirx.PrimFunc:
    """Packed values of ``dtype`` to plain (B, C, D, H, W), of type ``plain`` if it is another."""
    x = _placeholder(layout.shape(data), dtype, "x")
    c_block = layout.c_block
    y = _compute(
        data,
        lambda n, c, d, h, w: x[
            n, c // c_block, d, h + layout.halo_h, w + layout.halo_w, c % c_block
        ].astype(plain or dtype),
        "plain",
    )
    return _prim_func([x], y)


def relu(data: Shape, x: PackedLayout, y: PackedLayout, dtype: str) -> tirx.PrimFunc:
    """max(x, 0); a NaN stays one, as in all operators here."""
    return _elementwise([x], y, data, dtype, lambda a: te.max(a, tirx.const(0, dtype)))


def minimum(
    data: Shape, x: PackedLayout, y: PackedLayout, dtype: str, *, bound: float
) -> tirx.PrimFunc:
    """min(x, bound)."""
    return _elementwise([x], y, data, dtype, lambda a: te.min(a, upper_bound(bound, dtype)))


def maximum(
    data: Shape, x: PackedLayout, y: PackedLayout, dtype: str, *, bound: float
) -> tirx.PrimFunc:
    """max(x, bound)."""
    return _elementwise([x], y, data, dtype, lambda a: te.max(a, upper_bound(bound, dtype)))


def add(data: Shape, layouts: Sequence[PackedLayout], y: PackedLayout, dtype: str):
    """a + b, of one shape each."""
    return _elementwise(layouts, y, data, dtype, lambda a, b: a + b)


def concat(
    data: Sequence[Shape], layouts: Sequence[PackedLayout], y: PackedLayout, dtype: str
) -> tirx.PrimFunc:
    """Along the channels.

    Where every part but the last fills its channel blocks, blocks are copied whole; else lane by
    lane, which takes several times as long.
    """
    inputs = [
        _placeholder(layout.shape(part), dtype, f"x{i}")
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
                inside = block < ends[i] // c_block
            else:
                here = inputs[i][n, channel // c_block, d, row, column, channel % c_block]
                inside = channel < data[i][1]
            return here if i + 1 == len(inputs) else tirx.if_then_else(inside, here, read(i + 1))

        conditions = _inside(y, whole, h, w)
        if not by_block and whole[1] % c_block:
            conditions.append(block * c_block + c < whole[1])
        return _guarded(conditions, lambda: read(0), tirx.const(y.fill, dtype))

    return _prim_func(inputs, _compute(y.shape(whole), value, "concat"))


def mean(data: Shape, x: PackedLayout, y: PackedLayout, dtype: str) -> tirx.PrimFunc:
    """Mean over (D, H, W), kept as axes of extent 1; accumulated in float32."""
    a = _placeholder(x.shape(data), dtype, "x")
    axes = [_reduce_axis(extent, name) for extent, name in zip(data[2:], "dhw", strict=True)]
    d, h, w = axes
    batch, blocks = x.shape(data)[:2]
    total = _compute(
        (batch, blocks, x.c_block),
        lambda n, block, c: te.sum(
            a[n, block, d, h + x.halo_h, w + x.halo_w, c].astype("float32"), axis=axes
        ),
        "total",
    )
    scale = tirx.const(1.0 / (data[2] * data[3] * data[4]), "float32")
    out = (*data[:2], 1, 1, 1)

    def value(n, block, d, h, w, c):
        return _guarded(
            _inside(y, out, h, w),
            lambda: (total[n, block, c] * scale).astype(dtype),
            tirx.const(y.fill, dtype),
        )

    return _prim_func([a], _compute(y.shape(out), value, "mean"))


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
    a = _placeholder(x.shape(data), dtype, "x")

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
        return _guarded(
            _inside(y, out, h, w),
            lambda: functools.reduce(te.max, taps),
            tirx.const(y.fill, dtype),
        )

    def position(axis: int, index, k: int):
        return index * stride[axis] + k - padding[axis]

    def _clamped(index, extent: int):
        return te.max(te.min(index, extent - 1), 0)

    return _prim_func([a], _compute(y.shape(out), value, "max_pool3d"))


def avg_pool3d(
    data: Shape,
    x: PackedLayout,
    y: PackedLayout,
    dtype: str,
    *,
    out: Shape,
    window: Sequence[int],
    stride: Sequence[int],
) -> tirx.PrimFunc:
    """Mean over a window that never leaves the input (no padding); accumulated in float32."""
    a = _placeholder(x.shape(data), dtype, "x")
    scale = tirx.const(1.0 / (window[0] * window[1] * window[2]), "float32")

    def tap(n, block, d, h, w, c, kd, kh, kw):
        return a[
            n,
            block,
            d * stride[0] + kd,
            h * stride[1] + kh + x.halo_h,
            w * stride[2] + kw + x.halo_w,
            c,
        ].astype("float32")

    axes = [_reduce_axis(k, name) for k, name in zip(window, ("kd", "kh", "kw"), strict=True)]
    batch, blocks, depth = y.shape(out)[:3]
    total = _compute(
        (batch, blocks, depth, *out[3:], x.c_block),
        lambda *index: te.sum(tap(*index, *axes), axis=axes),
        "total",
    )

    def value(n, block, d, h, w, c):
        return _guarded(
            _inside(y, out, h, w),
            lambda: (total[n, block, d, h - y.halo_h, w - y.halo_w, c] * scale).astype(dtype),
            tirx.const(y.fill, dtype),
        )

    return _prim_func([a], _compute(y.shape(out), value, "avg_pool3d"))


def quantize(
    data: Shape, x: PackedLayout, y: PackedLayout, *, scale: float, dtype: str
) -> tirx.PrimFunc:
    """float32 to ``dtype``, uint8 or int8, whose zero point is ``y.fill``."""
    return _elementwise(
        [x],
        y,
        data,
        "float32",
        lambda a: quantized(a, scale=scale, zero=y.fill, dtype=dtype),
        result=dtype,
    )


def dequantize(
    data: Shape, x: PackedLayout, y: PackedLayout, *, scale: float, dtype: str
) -> tirx.PrimFunc:
    """``dtype``, whose zero point is ``x.fill``, to float32."""
    return _elementwise(
        [x],
        y,
        data,
        dtype,
        lambda a: dequantized(a, scale=scale, zero=x.fill),
        result="float32",
    )


def quantized(value, *, scale: float, zero: int, dtype: str):
    """value / scale, rounded to the nearest even and moved by the zero point, within the type."""
    low, high = (
        tirx.const(float(int(limit(dtype).value) - zero), "float32")
        for limit in (tirx.min_value, tirx.max_value)
    )
    steps = te.max(te.min(value / tirx.const(scale, "float32"), high), low)
    # A sum has no digits below 1 there, and its last bits count the steps. (TVM's vectoriser visits
    # what nearbyint takes twice, and ends on a second quantisation inside.)
    bits = tirx.reinterpret("int32", steps + tirx.const(WHOLE, "float32"))
    return (bits + tirx.const(zero - WHOLE_BITS, "int32")).astype(dtype)


def dequantized(value, *, scale: float, zero: int):
    """(value - zero point) * scale as float32."""
    steps = value.astype("int32") - tirx.const(zero, "int32")
    return steps.astype("float32") * tirx.const(scale, "float32")


def _elementwise(
    layouts: Sequence[PackedLayout],
    y: PackedLayout,
    data: Shape,
    dtype: str,
    function: Callable,
    *,
    result: str | None = None,
) -> tirx.PrimFunc:
    """result: its type, where that is not ``dtype``."""
    inputs = [_placeholder(layout.shape(data), dtype, f"x{i}") for i, layout in enumerate(layouts)]

    def value(n, block, d, h, w, c):
        def read(tensor, layout):
            row, column = h - y.halo_h + layout.halo_h, w - y.halo_w + layout.halo_w
            return tensor[n, block, d, row, column, c]

        parts = zip(inputs, layouts, strict=True)
        return _guarded(
            _inside(y, data, h, w),
            lambda: function(*(read(*part) for part in parts)),
            tirx.const(y.fill, result or dtype),
        )

    return _prim_func(inputs, _compute(y.shape(data), value, "elementwise"))


def _placeholder(shape: Sequence[int], dtype: str, name: str):
    return te.placeholder(_extents(shape), dtype, name)


def _compute(shape: Sequence[int], value: Callable, name: str):
    return te.compute(_extents(shape), value, name)


def _extents(shape: Sequence[int]) -> list[tirx.IntImm]:
    """Relax counts in int64, and fuses only functions that do as well."""
    return [tirx.IntImm("int64", extent) for extent in shape]


def _reduce_axis(extent: int, name: str):
    return te.reduce_axis((tirx.IntImm("int64", 0), tirx.IntImm("int64", extent)), name)


def _inside(layout: PackedLayout, data: Shape, h, w) -> list:
    """Conditions under which (h, w) of a packed tensor is no halo."""
    conditions = []
    if layout.halo_h:
        conditions += [h >= layout.halo_h, h < layout.halo_h + data[3]]
    if layout.halo_w:
        conditions += [w >= layout.halo_w, w < layout.halo_w + data[4]]
    return conditions


def _guarded(conditions: list, value: Callable, fill):
    """``value()`` where all conditions hold, else ``fill``.

    Never a select: that would read outside.
    """
    if not conditions:
        return value()
    return tirx.if_then_else(tirx.all(*conditions), value(), fill)


def _prim_func(inputs: list, output) -> tirx.PrimFunc:
    return te.create_prim_func([*inputs, output]).with_attr({"tirx.noalias": True})
