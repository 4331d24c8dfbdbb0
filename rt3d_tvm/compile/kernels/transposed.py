"""Transposed convolutions as convolutions whose results interleave.

Along an axis with stride s, result s * q + r is a sum over the locations k of which k * dilation is
r + padding modulo s, of inputs at q + (r + padding - k * dilation) / s. So each r, a phase, is a
convolution of stride 1 with some of the locations. All phases together are one convolution with
filters (phase, filter) and zeros for the locations that a phase does not have, which the weight
format leaves out; its kernel stores each phase at its own places.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import (
    constant,
    dtype_of,
    ints,
    is_op,
    known_constant,
    known_shape,
    static_shape,
)
from topi_sparse.layout import ceil_div

TRANSPOSED = "relax.nn.conv3d_transpose"


@dataclass(frozen=True, kw_only=True, eq=False)
class Interleaved:
    """The convolution, its stride being 1: what a Convolution needs.

    weight   (phases x filters, N, KD, KH, KW), the filters padded with zeros
    out      (B, phases x filters, D, H, W), D, H and W being those of one phase
    padding  zeros before and after
    """

    weight: np.ndarray
    out: tuple[int, ...]
    padding: tuple[int, ...]


def why_not_transposed(call: relax.Call) -> str | None:
    """Why a transposed convolution has no such form, or None where it has."""
    attrs, weight = call.attrs, constant(call.args[1])
    data, out = static_shape(call.args[0]), static_shape(call)
    if weight is None:
        return "its weight is not a constant"
    if data is None or out is None:
        return f"its input shape {call.args[0].ty.shape} is not static"
    layouts = (attrs.data_layout, attrs.kernel_layout)
    if layouts != ("NCDHW", "IODHW") or attrs.out_layout not in ("", "NCDHW"):
        return f"its layouts are {layouts}, not ('NCDHW', 'IODHW')"
    dtypes = (dtype_of(call.args[0]), str(weight.dtype))
    if dtypes != ("float32", "float32"):
        return f"its input and weight are {dtypes}, not float32"
    if attrs.groups > 1:
        return f"it has {attrs.groups} groups; transposed convolutions of one have a kernel"
    strides = ints(attrs.strides)
    if any(size % step for size, step in zip(out[2:], strides, strict=True)):
        return f"its result {out[2:]} is no multiple of its stride {strides}"
    for axis in range(3):
        taps, step = _taps(call, axis), strides[axis]
        behind = out[2 + axis] // step - data[2 + axis] + taps.max()
        if taps.min() > 0 or behind < 0:
            return f"its padding {ints(attrs.padding)} leaves some of its input unread"
    return None


def interleaved(call: relax.Call, c_block: int) -> Interleaved:
    """The form of a call that has one, each phase with whole blocks of so many channels."""
    data, out, weight = known_shape(call.args[0]), known_shape(call), known_constant(call.args[1])
    strides = ints(call.attrs.strides)
    taps = [_taps(call, axis) for axis in range(3)]
    before = [-int(each.min()) for each in taps]
    sizes = [int(each.max()) + 1 + front for each, front in zip(taps, before, strict=True)]
    places = tuple(size // step for size, step in zip(out[2:], strides, strict=True))
    phases, filters = int(np.prod(strides)), ceil_div(out[1], c_block) * c_block
    wide = np.zeros((*strides, filters, data[1], *sizes), weight.dtype)
    for location in itertools.product(*(range(k) for k in weight.shape[2:])):
        kd, kh, kw = location
        i, j, k = (_moved(call, axis, k) % strides[axis] for axis, k in enumerate(location))
        d, h, w = (int(taps[axis][k]) + before[axis] for axis, k in enumerate(location))
        wide[i, j, k, : out[1], :, d, h, w] = weight[:, :, kd, kh, kw].T
    behind = [
        place - size + k - 1 - front
        for place, size, k, front in zip(places, data[2:], sizes, before, strict=True)
    ]
    return Interleaved(
        weight=wide.reshape(phases * filters, data[1], *sizes),
        out=(out[0], phases * filters, *places),
        padding=(*before, *behind),
    )


def is_transposed(call: relax.Expr) -> bool:
    """Whether it is a transposed convolution over D, H and W."""
    return is_op(call, TRANSPOSED)


def _moved(call: relax.Call, axis: int, k: int) -> int:
    """What location k adds to s times an input's place to be that of its result."""
    return k * int(call.attrs.dilation[axis]) - int(call.attrs.padding[axis])


def _taps(call: relax.Call, axis: int) -> np.ndarray:
    """Of each location: how far behind q the input of result s * q + r is; it may be before."""
    step = int(call.attrs.strides[axis])
    locations = range(known_shape(call.args[1])[2 + axis])
    moved = [_moved(call, axis, k) for k in locations]
    return np.array([(each % step - each) // step for each in moved])
