"""A weight that a file stores in 8 bits, less its zero point."""

from __future__ import annotations

import numpy as np
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import EIGHT_BIT, constant, dtype_of, is_op, known_constant


def centred(call: relax.Call) -> np.ndarray:
    """An 8-bit constant that is dequantised, less its zero point, as int16."""
    values, _, zero = map(known_constant, call.args)
    shape = [1] * values.ndim
    if zero.size > 1:
        shape[int(call.attrs.axis) % values.ndim] = zero.size
    return values.astype("int16") - zero.astype("int16").reshape(shape)


def beyond_int8(call: relax.Call) -> tuple[int, int] | None:
    """The least and the largest of a constant less its zero point, where int8 does not hold them.

    None as well for what is no dequantised 8-bit constant.
    """
    if not is_op(call, "relax.dequantize") or any(constant(arg) is None for arg in call.args):
        return None
    if dtype_of(call.args[0]) not in EIGHT_BIT:
        return None
    values = centred(call)
    if not values.size or -128 <= values.min() <= values.max() <= 127:
        return None
    return int(values.min()), int(values.max())
