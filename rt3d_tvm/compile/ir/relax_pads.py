"""Pads by a number as Relax's own operator: TVM's importer makes a loop nest of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import constant, dtype_of, static_shape


def constant_pad(
    operands: Sequence[relax.Expr | None], attributes: Mapping[str, object]
) -> relax.Call | None:
    """The operator for a Pad's operands x, pads, value and axes; None for what it is not."""
    x, pads, value, axes = [*operands, None, None, None][:4]
    shape, width = static_shape(x), constant(pads)
    number = np.zeros(1) if value is None else constant(value)
    if shape is None or width is None or number is None or dtype_of(x) != "float32":
        return None
    if attributes.get("mode", b"constant") != b"constant" or not np.isfinite(number).all():
        return None
    places = np.arange(len(shape)) if axes is None else constant(axes)
    if places is None or (width < 0).any():  # those that cut
        return None
    whole = np.zeros((len(shape), 2), int)
    whole[places] = width.reshape(2, -1).T
    return relax.op.nn.pad(x, whole.reshape(-1).tolist(), "constant", float(number.item()))
