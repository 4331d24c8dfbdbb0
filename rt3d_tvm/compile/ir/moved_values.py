"""Slices, pads, shuffles, concatenations of packed values: why one cannot be, and its PrimFunc."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import constant, ints, known_shape, static_shape
from topi_sparse import packed, packed_moves

# Each part of a concatenation along another axis than the channels is a branch of its code.
_MOST_PARTS = 64


def slice_why_not(call: relax.Call, _block: int) -> str | None:
    if static_shape(call) is None or len(known_shape(call)) != 5:
        return f"its result {call.ty} is not a clip's"
    if any(step <= 0 for step in slice_of(call)["stride"]):
        return f"its strides {slice_of(call)['stride']} are not all positive"
    return None


def slice_of(call: relax.Call) -> dict:
    """Where a slice begins along each axis, and its strides."""
    x, (axes, begins) = (
        call.args[0],
        ([int(each.value) for each in argument.fields] for argument in call.args[1:3]),
    )
    strides = [int(each.value) for each in call.args[4].fields] if len(call.args) > 4 else []
    begin, stride = [0] * 5, [1] * 5
    for i, axis in enumerate(axes):
        size = known_shape(x)[axis % 5]
        begin[axis % 5] = min(max(begins[i] + (size if begins[i] < 0 else 0), 0), size)
        stride[axis % 5] = strides[i] if strides else 1
    return {"out": known_shape(call), "begin": begin, "stride": stride}


def shuffle_why_not(call: relax.Call, _block: int) -> str | None:
    return None if groups_of(call) else "it takes other channels than a shuffle does"


def groups_of(call: relax.Call) -> int | None:
    """In how many groups a take of channels shuffles them, or None where it is no shuffle."""
    index, shape = constant(call.args[1]), static_shape(call)
    if index is None or shape is None or len(shape) != 5 or call.attrs.axis is None:
        return None
    channels = known_shape(call.args[0])[1]
    if int(call.attrs.axis) % 5 != 1 or index.shape != (channels,) or channels < 2:
        return None
    size = int(index[1])  # behind channel 0 comes the first one of the second group
    if size < 1 or channels % size:
        return None
    same = np.arange(channels).reshape(channels // size, -1).T.ravel()
    return channels // size if (index == same).all() else None


def permute_why_not(call: relax.Call, _block: int) -> str | None:
    order = _order_of(call)
    if len(order) != 5 or order[:2] != [0, 1]:
        return f"it puts the axes in the order {order}; those of D, H and W may change places"
    return None


def _order_of(call: relax.Call) -> list[int]:
    rank = len(known_shape(call))
    axes = range(rank)[::-1] if call.attrs.axes is None else ints(call.attrs.axes)
    return [axis % rank for axis in axes]


def concat_why_not(call: relax.Call, _block: int) -> str | None:
    if call.attrs.axis is None or len(known_shape(call)) != 5:
        return f"its result {call.ty} is not a clip's"
    if concat_axis(call) != 1 and len(call.args[0].fields) > _MOST_PARTS:
        return f"it has {len(call.args[0].fields)} parts, more than {_MOST_PARTS}"
    return None


def concat_axis(call: relax.Call) -> int:
    """The axis of a concatenation of clips."""
    return int(call.attrs.axis) % 5


def pad_why_not(call: relax.Call, _block: int) -> str | None:
    if static_shape(call) is None or len(known_shape(call)) != 5:
        return f"its result {call.ty} is not a clip's"
    if call.attrs.pad_mode != "constant":
        return f"its mode is {call.attrs.pad_mode}, not constant"
    return None


def packed_slice(call: relax.Call, data, layouts, y, dtype) -> tvm.tirx.PrimFunc:
    return packed_moves.strided_slice(data[0], layouts[0], y, dtype, **slice_of(call))


def packed_permute(call: relax.Call, data, layouts, y, dtype) -> tvm.tirx.PrimFunc:
    return packed_moves.permuted(data[0], layouts[0], y, dtype, order=_order_of(call))


def packed_shuffle(call: relax.Call, data, layouts, y, dtype) -> tvm.tirx.PrimFunc:
    return packed_moves.shuffle(data[0], layouts[0], y, dtype, groups=groups_of(call))


def packed_concat(call: relax.Call, data, layouts, y, dtype) -> tvm.tirx.PrimFunc:
    if concat_axis(call) == 1:
        return packed.concat(data, layouts, y, dtype)
    return packed_moves.joined(data, layouts, y, dtype, axis=concat_axis(call))


def packed_pad(call: relax.Call, data, layouts, y, dtype) -> tvm.tirx.PrimFunc:
    return packed_moves.pad(
        data[0],
        layouts[0],
        y,
        dtype,
        out=known_shape(call),
        before=[int(each) for each in call.attrs.pad_width[::2]],
        value=float(call.attrs.pad_value),
    )
