"""What a kernel does to a sum before it stores it: ReLU, and ReLU6 as a ReLU with a ceiling.

T.max and T.min keep a NaN: each device's schedule writes them so (schedules/extrema.py).
"""

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
    """The constant, or the nearest finite number of the type; an infinity bounds nothing.

    Of whole numbers it is one of the type.
    """
    if np.issubdtype(np.dtype(dtype), np.integer):
        return tvm.tirx.const(int(value), dtype)
    limits = np.finfo(dtype)
    if not np.isinf(value):
        value = float(np.clip(value, limits.min, limits.max))
    return tvm.tirx.const(value, dtype)
