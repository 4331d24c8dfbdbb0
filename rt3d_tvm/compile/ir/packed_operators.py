"""The operators that work on packed values: why one cannot, and what makes its PrimFunc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import (
    constant,
    dtype_of,
    ints,
    known_shape,
    scale_and_zero,
    static_shape,
)
from topi_sparse import packed
from topi_sparse.layout import PackedLayout

# (call, shapes of its tensors, their layouts, the result's layout, dtype) -> its packed PrimFunc.
Maker = Callable[..., tvm.tirx.PrimFunc]


@dataclass(frozen=True, kw_only=True)
class PackedOperator:
    """An operator on packed values.

    why_not  of a call and a channel block, why it cannot work on packed values, or None
    result   of a call and the layout and type of its first tensor, those of what it gives
    """

    why_not: Callable[[relax.Call, int], str | None]
    make: Maker
    result: Callable[[relax.Call, PackedLayout, str], tuple[PackedLayout, str]] = (
        lambda _call, layout, dtype: (layout, dtype)
    )


def why_not(call: relax.Expr, forms: list[tuple[int, str] | None]) -> str | None:
    """Why an operator cannot work on packed values, or None where it can.

    ``forms``: the channel block and type of each of its tensors, None for one that is not packed.
    """
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return "it is no operator"
    if call.op.name not in OPERATORS:
        return f"{call.op.name} has no packed form"
    packed_forms = [form for form in forms if form is not None]
    if not forms or len(packed_forms) < len(forms) or len(set(packed_forms)) > 1:
        return "its tensors are not all packed in one channel block and type"
    return OPERATORS[call.op.name].why_not(call, packed_forms[0][0])


def tensors_of(call: relax.Call) -> list[relax.Expr]:
    """The tensors an operator reads, those in a tuple one by one; a constant scalar is none."""
    return [
        tensor
        for arg in call.args
        for tensor in (arg.fields if isinstance(arg, relax.Tuple) else [arg])
        if getattr(constant(tensor), "ndim", 1)
    ]


def windows_of(call: relax.Call) -> dict:
    """The arguments that every packed pool takes."""
    attrs = call.attrs
    return {
        "out": static_shape(call),
        "window": ints(attrs.pool_size),
        "stride": ints(attrs.strides),
    }


def _pool_why_not(call: relax.Call, _block: int) -> str | None:
    attrs = call.attrs
    if any(int(step) != 1 for step in attrs.dilation):
        return f"its dilation is {list(attrs.dilation)}, not 1"
    if attrs.layout != "NCDHW":
        return f"its layout is {attrs.layout}, not NCDHW"
    return None


def _max_pool_why_not(call: relax.Call, block: int) -> str | None:
    taps = 1
    for k in call.attrs.pool_size:
        taps *= int(k)
    if taps > packed.MAX_POOL_TAPS:
        return f"its window has {taps} taps, more than {packed.MAX_POOL_TAPS}"
    return _pool_why_not(call, block)


def _avg_pool_why_not(call: relax.Call, block: int) -> str | None:
    attrs = call.attrs
    data, out = known_shape(call.args[0])[2:], known_shape(call)[2:]
    windows = zip(data, out, attrs.strides, attrs.pool_size, strict=True)
    if any(int(pad) for pad in attrs.padding) or any(
        (o - 1) * int(step) + int(k) > size for size, o, step, k in windows
    ):
        return "its windows reach outside the input"
    return _pool_why_not(call, block)


def _add_why_not(call: relax.Call, _block: int) -> str | None:
    shapes = [static_shape(arg) for arg in call.args]
    return None if shapes[0] == shapes[1] else f"its shapes {shapes} differ"


def _mean_why_not(call: relax.Call, _block: int) -> str | None:
    axes = sorted(int(axis) % 5 for axis in call.attrs.axis or range(5))
    if axes != [2, 3, 4] or not call.attrs.keepdims:
        return f"it is a mean over axes {axes}, not over D, H, W with keepdims"
    return None


def _concat_why_not(call: relax.Call, _block: int) -> str | None:
    if call.attrs.axis is None or int(call.attrs.axis) % 5 != 1:
        return f"its axis is {call.attrs.axis}, not the channels"
    return None


def _bound_why_not(call: relax.Call, _block: int) -> str | None:
    bound = constant(call.args[1])
    return None if bound is not None and bound.ndim == 0 else "its bound is no constant scalar"


def _quantized_why_not(call: relax.Call, _block: int) -> str | None:
    if scale_and_zero(call) is None:
        return "its scale and zero point are not one constant each"
    return None


def _quantize(call: relax.Call, data, layouts, y, dtype):
    scale = float(constant(call.args[1]).item())
    return packed.quantize(data[0], layouts[0], y, scale=scale, dtype=dtype_of(call))


def _dequantize(call: relax.Call, data, layouts, y, dtype):
    scale = float(constant(call.args[1]).item())
    return packed.dequantize(data[0], layouts[0], y, scale=scale, dtype=dtype)


def _stored(call: relax.Call, layout: PackedLayout, _dtype: str) -> tuple[PackedLayout, str]:
    """Of a quantised result: its zero point is what surrounds it."""
    return replace(layout, fill=int(constant(call.args[2]).item())), dtype_of(call)


def _real(call: relax.Call, layout: PackedLayout, _dtype: str) -> tuple[PackedLayout, str]:
    return replace(layout, fill=0), dtype_of(call)


def _max_pool(call: relax.Call, data, layouts, y, dtype):
    padding = ints(call.attrs.padding)
    return packed.max_pool3d(data[0], layouts[0], y, dtype, padding=padding, **windows_of(call))


def _avg_pool(call: relax.Call, data, layouts, y, dtype):
    return packed.avg_pool3d(data[0], layouts[0], y, dtype, **windows_of(call))


OPERATORS = {
    "relax.nn.max_pool3d": PackedOperator(why_not=_max_pool_why_not, make=_max_pool),
    "relax.nn.avg_pool3d": PackedOperator(why_not=_avg_pool_why_not, make=_avg_pool),
    "relax.nn.relu": PackedOperator(
        why_not=lambda call, block: None,
        make=lambda call, data, layouts, y, dtype: packed.relu(data[0], layouts[0], y, dtype),
    ),
    "relax.minimum": PackedOperator(
        why_not=_bound_why_not,
        make=lambda call, data, layouts, y, dtype: packed.minimum(
            data[0], layouts[0], y, dtype, bound=float(constant(call.args[1]))
        ),
    ),
    "relax.maximum": PackedOperator(
        why_not=_bound_why_not,
        make=lambda call, data, layouts, y, dtype: packed.maximum(
            data[0], layouts[0], y, dtype, bound=float(constant(call.args[1]))
        ),
    ),
    "relax.add": PackedOperator(
        why_not=_add_why_not,
        make=lambda call, data, layouts, y, dtype: packed.add(data[0], layouts, y, dtype),
    ),
    "relax.mean": PackedOperator(
        why_not=_mean_why_not,
        make=lambda call, data, layouts, y, dtype: packed.mean(data[0], layouts[0], y, dtype),
    ),
    "relax.quantize": PackedOperator(why_not=_quantized_why_not, make=_quantize, result=_stored),
    "relax.dequantize": PackedOperator(why_not=_quantized_why_not, make=_dequantize, result=_real),
    "relax.concat": PackedOperator(
        why_not=_concat_why_not, make=lambda call, *args: packed.concat(*args)
    ),
}
