"""The operators that work on packed values: why one cannot, and what makes its PrimFunc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import (
    constant,
    dtype_of,
    ints,
    is_op,
    known_shape,
    scale_and_zero,
    static_shape,
)
from rt3d_tvm.compile.ir.elementwise_calls import (
    ELEMENTWISE,
    FLOATS,
    elementwise,
    elementwise_tensors,
)
from rt3d_tvm.compile.ir.moved_values import (
    concat_why_not,
    packed_concat,
    packed_pad,
    packed_permute,
    packed_shuffle,
    packed_slice,
    pad_why_not,
    permute_why_not,
    shuffle_why_not,
    slice_why_not,
)
from topi_sparse import packed, packed_nest, packed_reductions, packed_resize
from topi_sparse.layout import PackedLayout

# Their other arguments are constants that say what to do.
_OF_ONE_TENSOR = ("relax.strided_slice", "relax.take", "relax.image.resize3d")

_OF_WHOLE_NUMBERS = ("relax.nn.relu", "relax.minimum", "relax.maximum", "relax.add")

# (call, shapes of its tensors, their layouts, the result's layout, dtype) -> its packed PrimFunc.
Maker = Callable[..., tvm.tirx.PrimFunc]


@dataclass(frozen=True, kw_only=True)
class PackedOperator:
    """An operator on packed values.

    why_not  of a call and a channel block, why it cannot work on packed values, or None
    result   of a call and the layout and type of its first tensor, those of what it gives
    takes_constants  whether a constant tensor, which is then packed here, may be one of several
    """

    why_not: Callable[[relax.Call, int], str | None]
    make: Maker
    result: Callable[[relax.Call, PackedLayout, str], tuple[PackedLayout, str]] = (
        lambda _call, layout, dtype: (layout, dtype)
    )
    takes_constants: bool = False


def why_not(call: relax.Expr, forms: list[tuple[int, str] | None]) -> str | None:
    """Why an operator cannot work on packed values, or None where it can.

    ``forms``: the channel block and type of each tensor that `tensors_of` gives, None for one that
    is not packed.
    """
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return "it is no operator"
    if call.op.name not in OPERATORS:
        return f"{call.op.name} has no packed form"
    if OPERATORS[call.op.name].takes_constants:
        tensors = tensors_of(call)
        forms = [
            form for form, tensor in zip(forms, tensors, strict=True) if constant(tensor) is None
        ]
    packed_forms = [form for form in forms if form is not None]
    if not forms or len(packed_forms) < len(forms) or len(set(packed_forms)) > 1:
        return "its tensors are not all packed in one channel block and type"
    return OPERATORS[call.op.name].why_not(call, packed_forms[0][0])


def is_read_plain(call: relax.Expr, tensor: relax.Expr, dtype: str) -> bool:
    """Whether an operator on packed values of a type reads a tensor that is not packed as it lies.

    A single channel, (B, 1, D, H, W), is packed in blocks of one: a view.
    """
    shape, out = static_shape(tensor), static_shape(call)
    if elementwise(call) is None or shape is None or out is None or dtype_of(tensor) != dtype:
        return False
    return len(shape) == len(out) == 5 and shape[1] == 1 < out[1]


def tensors_of(call: relax.Call) -> list[relax.Expr]:
    """The tensors an operator reads, those in a tuple one by one; a constant scalar is none."""
    if elementwise(call) is not None:
        return elementwise_tensors(call)
    if any(is_op(call, name) for name in _OF_ONE_TENSOR):
        return [call.args[0]]
    return [
        tensor
        for arg in call.args
        for tensor in (arg.fields if isinstance(arg, relax.Tuple) else [arg])
        if getattr(constant(tensor), "ndim", 1)
    ]


def packed_constant(
    call: relax.Call, value: np.ndarray, layout: PackedLayout, dtype: str
) -> np.ndarray:
    """A constant operand of an elementwise operator, in the layout, with all of its channels."""
    wide = value.reshape((1,) * (5 - value.ndim) + value.shape).astype(dtype)
    channels = known_shape(call)[1]
    return layout.packed(np.broadcast_to(wide, (wide.shape[0], channels, *wide.shape[2:])))


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
    padding = ints(attrs.padding)
    windows = zip(data, out, attrs.strides, attrs.pool_size, padding[:3], padding[3:], strict=True)
    if attrs.count_include_pad and any(
        (o - 1) * int(step) + int(k) > size + before + after
        for size, o, step, k, before, after in windows
    ):
        return "its windows reach behind the padding, all of which counts"
    return _pool_why_not(call, block)


def _elementwise_why_not(call: relax.Call, _block: int) -> str | None:
    out = static_shape(call)
    shapes = [static_shape(tensor) for tensor in elementwise_tensors(call)]
    if elementwise(call) is None:
        return "an operand of it is no tensor and no number"
    if dtype_of(call) not in FLOATS and call.op.name not in _OF_WHOLE_NUMBERS:
        return f"it is computed in {dtype_of(call)}"
    for shape in shapes:
        if out is None or shape is None or len(out) != 5 or len(shape) > 5:
            return f"its shapes {shapes} are not those of clips"
        if shape[:1] != out[:1] and len(shape) == 5 and shape[0] != 1:
            return f"its shapes {shapes} differ"
    return None


def _mean_why_not(call: relax.Call, _block: int) -> str | None:
    axes = _mean_axes(call)
    if len(known_shape(call.args[0])) != 5 or min(axes) < 1 or not call.attrs.keepdims:
        return f"it is a mean over axes {axes}, not over some of C, D, H, W with keepdims"
    return None if dtype_of(call) in FLOATS else f"it is computed in {dtype_of(call)}"


def _softmax_why_not(call: relax.Call, _block: int) -> str | None:
    axis = int(call.attrs.axis)
    if len(known_shape(call)) != 5 or axis % 5 == 0:
        return f"it is along axis {axis} of {known_shape(call)}, not along C, D, H or W of clips"
    return None if dtype_of(call) in FLOATS else f"it is computed in {dtype_of(call)}"


def _mean_axes(call: relax.Call) -> list[int]:
    return sorted(int(axis) % 5 for axis in call.attrs.axis or range(5))


def _resize_why_not(call: relax.Call, block: int) -> str | None:
    attrs, shape = call.attrs, static_shape(call)
    if shape is None or len(shape) != 5 or attrs.layout != "NCDHW":
        return f"its layout is {attrs.layout}, not NCDHW"
    if attrs.method not in (packed_resize.NEAREST, packed_resize.LINEAR):
        return f"its method is {attrs.method}, not nearest or linear"
    if attrs.coordinate_transformation_mode not in packed_resize.MODES:
        return f"its coordinates are {attrs.coordinate_transformation_mode}"
    if attrs.method == packed_resize.NEAREST and (
        attrs.rounding_method not in packed_resize.ROUNDINGS
    ):
        return f"its rounding is {attrs.rounding_method!r}"
    if dtype_of(call) not in FLOATS:
        return f"it is computed in {dtype_of(call)}"
    if 2 * shape[1] < block:
        return f"its {shape[1]} channels would be packed in blocks of {block}"
    return None


def _resize(call: relax.Call, data, layouts, y, dtype):
    attrs = call.attrs
    return packed_resize.resize3d(
        data[0],
        layouts[0],
        y,
        dtype,
        out=known_shape(call),
        method=attrs.method,
        mode=attrs.coordinate_transformation_mode,
        rounding=attrs.rounding_method,
    )


def _quantized_why_not(call: relax.Call, _block: int) -> str | None:
    if scale_and_zero(call) is None:
        return "its scale and zero point are not one constant each"
    return None


def _elementwise(call: relax.Call, data, layouts, y, dtype):
    tensors = elementwise_tensors(call)
    functions = [
        (
            name,
            [
                next(i for i, tensor in enumerate(tensors) if tensor.same_as(each))
                if isinstance(each, relax.Expr)
                else each
                for each in operands
            ],
        )
        for name, operands in elementwise(call)
    ]
    out = known_shape(call)
    return packed_nest.elementwise([*zip(data, layouts, strict=True)], out, y, dtype, functions)


def _quantize(call: relax.Call, data, layouts, y, dtype):
    scale = float(constant(call.args[1]).item())
    return packed.quantize(data[0], layouts[0], y, dtype, scale=scale, result=dtype_of(call))


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
    return packed.avg_pool3d(
        data[0],
        layouts[0],
        y,
        dtype,
        padding=ints(call.attrs.padding)[:3],
        counts_padding=bool(call.attrs.count_include_pad),
        **windows_of(call),
    )


OPERATORS = {
    **dict.fromkeys(
        ELEMENTWISE,
        PackedOperator(why_not=_elementwise_why_not, make=_elementwise, takes_constants=True),
    ),
    "relax.nn.max_pool3d": PackedOperator(why_not=_max_pool_why_not, make=_max_pool),
    "relax.nn.avg_pool3d": PackedOperator(why_not=_avg_pool_why_not, make=_avg_pool),
    "relax.mean": PackedOperator(
        why_not=_mean_why_not,
        make=lambda call, data, layouts, y, dtype: packed_reductions.mean(
            data[0], layouts[0], y, dtype, axes=_mean_axes(call)
        ),
    ),
    "relax.nn.softmax": PackedOperator(
        why_not=_softmax_why_not,
        make=lambda call, data, layouts, y, dtype: packed_reductions.softmax(
            data[0], layouts[0], y, dtype, axis=int(call.attrs.axis) % 5
        ),
    ),
    "relax.quantize": PackedOperator(why_not=_quantized_why_not, make=_quantize, result=_stored),
    "relax.dequantize": PackedOperator(why_not=_quantized_why_not, make=_dequantize, result=_real),
    "relax.strided_slice": PackedOperator(why_not=slice_why_not, make=packed_slice),
    "relax.permute_dims": PackedOperator(why_not=permute_why_not, make=packed_permute),
    "relax.nn.pad": PackedOperator(why_not=pad_why_not, make=packed_pad),
    "relax.image.resize3d": PackedOperator(why_not=_resize_why_not, make=_resize),
    "relax.take": PackedOperator(why_not=shuffle_why_not, make=packed_shuffle),
    "relax.concat": PackedOperator(why_not=concat_why_not, make=packed_concat),
}
