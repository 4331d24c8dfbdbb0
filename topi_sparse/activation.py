"""What a kernel does to a sum before it stores it: ReLU, and ReLU6 as a ReLU with a ceiling."""

from __future__ import annotations

import numpy as np
import tvm
from tvm.tirx.script.builder import ir as T


def activated(value, *, relu: bool, ceiling: float | None, dtype: str, lanes: int):
    """A vector of ``lanes`` sums, not below 0 with ``relu`` and not above the ``ceiling``."""
    if relu:
        value = T.max(value, T.Broadcast(tvm.tirx.const(0, dtype), lanes))
    if ceiling is not None:
        value = T.min(value, T.Broadcast(upper_bound(ceiling, dtype), lanes))
    return value


def upper_bound(value: float, dtype: str) -> tvm.tirx.PrimExpr:
    """The constant, or the largest number of the type where that is less."""
    return tvm.tirx.const(min(value, float(np.finfo(dtype).max)), dtype)
