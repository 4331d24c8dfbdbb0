"""Transposed convolutions as convolutions whose results interleave.

Along an axis with stride s, result s * q + r is a sum over the locations k of which k * dilation is
r + padding modulo s, of inputs at q + (r + padding - k * dilation) / s. So each r, a phase, is a
convolution of stride 1 with some of the locations. All phases together are one convolution with
filters (phase, filter) and zeros for the locations that a phase does not have, which the weight
format leaves out; its kernel stores each phase at its own places. A result that is no multiple of
the stride is cut from the next multiple.
"""

from __future__ import annotations

import itertools

import numpy as np
from tvm import relax

from rt3d_tvm.compile.ir.conv_chain import ConvChain, ungrouped
from rt3d_tvm.compile.ir.dataflow import (
    constant,
    dtype_of,
    ints,
    is_op,
    known_constant,
    known_shape,
    static_shape,
)
from rt3d_tvm.compile.kernels.kernel import Convolution
from topi_sparse.layout import ceil_div

TRANSPOSED = "relax.nn.conv3d_transpose"


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
    for axis, place in enumerate(_places(call)):
        taps = _taps(call, axis)
        behind = place - data[2 + axis] + taps.max()
        if taps.min() > 0 or behind < 0:
            return f"its padding {ints(attrs.padding)} leaves some of its input unread"
    return None


def transposed_convolution(chain: ConvChain, c_block: int) -> Convolution:
    """The form of a chain that has one, each phase with whole blocks of so many channels.

    Its stride is 1, its filters are (phases x filters), those of a phase padded with zeros, and its
    result has the size of one phase. Conv groups are written out.
    """
    call, bias = chain.conv, chain.bias
    data, out, strides = known_shape(call.args[0]), known_shape(call), ints(call.attrs.strides)
    weight = ungrouped(known_constant(call.args[1]), call.attrs.groups)
    taps = [_taps(call, axis) for axis in range(3)]
    before = [-int(each.min()) for each in taps]
    sizes = [int(each.max()) + 1 + front for each, front in zip(taps, before, strict=True)]
    phases, filters = int(np.prod(strides)), ceil_div(out[1], c_block) * c_block
    wide = np.zeros((*strides, filters, data[1], *sizes), weight.dtype)
    for location in itertools.product(*(range(k) for k in weight.shape[2:])):
        kd, kh, kw = location
        i, j, k = (_moved(call, axis, k) % strides[axis] for axis, k in enumerate(location))
        d, h, w = (int(taps[axis][k]) + before[axis] for axis, k in enumerate(location))
        wide[i, j, k, : out[1], :, d, h, w] = weight[:, :, kd, kh, kw].T
    behind = [
        place - size + k - 1 - front
        for place, size, k, front in zip(_places(call), data[2:], sizes, before, strict=True)
    ]
    if bias is not None:
        padded = np.zeros(filters, bias.dtype)
        padded[: bias.size] = bias
        bias = np.tile(padded, phases)
    return Convolution(
        data=data,
        out=(out[0], phases * filters, *_places(call)),
        weight=wide.reshape(phases * filters, data[1], *sizes),
        bias=bias,
        stride=(1, 1, 1),
        padding=(*before, *behind),
        dilation=(1, 1, 1),
        residual=chain.residual is not None,
        relu=chain.relu,
        ceiling=chain.ceiling,
        steps=chain.steps,
        interleave=strides,
    )


def whole_result(call: relax.Call) -> tuple[int, ...]:
    """The shape of a transposed convolution's result, up to the next multiple of its stride."""
    strides = ints(call.attrs.strides)
    sizes = (place * step for place, step in zip(_places(call), strides, strict=True))
    return (*known_shape(call)[:2], *sizes)


def is_transposed(call: relax.Expr) -> bool:
    """Whether it is a transposed convolution over D, H and W."""
    return is_op(call, TRANSPOSED)


def _places(call: relax.Call) -> tuple[int, ...]:
    """The size of a phase; of the first one, where some have less."""
    sizes = zip(known_shape(call)[2:], ints(call.attrs.strides), strict=True)
    return tuple(ceil_div(size, step) for size, step in sizes)


def _moved(call: relax.Call, axis: int, k: int) -> int:
    """What location k adds to s times an input's place to be that of its result."""
    return k * int(call.attrs.dilation[axis]) - int(call.attrs.padding[axis])


def _taps(call: relax.Call, axis: int) -> np.ndarray:
    """Of each location: how far behind q the input of result s * q + r is; it may be before."""
    step = int(call.attrs.strides[axis])
    locations = range(known_shape(call.args[1])[2 + axis])
    moved = [_moved(call, axis, k) for k in locations]
    return np.array([(each % step - each) // step for each in moved])
