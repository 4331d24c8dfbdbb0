"""How far two results of one model are from each other."""

from __future__ import annotations

import sys

import numpy as np


def relative_distance(y: np.ndarray, ref: np.ndarray, *, equal_nan: bool = False) -> float:
    """Largest |y - ref| over the largest finite |ref|, of arrays of one shape.

    0 where all values are equal, infinities and zeros too; a NaN is equal to a NaN only with
    ``equal_nan``. The largest float where one of two values is a NaN or infinite and the other is
    something else, and where they differ though no value of ``ref`` but 0 is finite.
    """
    same = y == ref
    if equal_nan:
        same |= np.isnan(y) & np.isnan(ref)
    if same.all():
        return 0.0
    distance = abs(y[~same].astype("float64") - ref[~same].astype("float64")).max()
    size = abs(ref[np.isfinite(ref)].astype("float64")).max(initial=0)
    relative = float(distance / size) if size else float("inf")
    return relative if np.isfinite(relative) else sys.float_info.max
