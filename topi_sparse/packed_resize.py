"""resize3d: nearest or linear resampling of packed activations, as a TE compute.

Along each axis, of I places before and O behind, place o reads at a coordinate p / q, a ratio of
whole numbers, so that no rounding decides which places are read::

    half_pixel     (o + 1/2) * I / O - 1/2 = ((2 * o + 1) * I - O) / (2 * O)
    align_corners  o * (I - 1) / (O - 1)
    asymmetric     o * I / O

Nearest takes one place there, linear weighs the two beside it; one that is outside is the last one
inside.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from topi_sparse.layout import PackedLayout
from topi_sparse.packed_nest import Shape, compute, guarded, inside, placeholder, prim_func

MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
NEAREST, LINEAR = "nearest_neighbor", "linear"


def resize3d(
    data: Shape,
    x: PackedLayout,
    y: PackedLayout,
    dtype: str,
    *,
    out: Shape,
    method: str,
    mode: str,
    rounding: str,
) -> tirx.PrimFunc:
    """(B, C, D, H, W) to ``out``, which has the same B and C; computed in float32."""
    a = placeholder(x.shape(data), dtype, "x")

    def value(n, block, d, h, w, c):
        def weighed(places: Sequence, left: Sequence):
            """The value at the places of some axes, weighed over those that are left."""
            if not left:
                d, h, w = places
                return a[n, block, d, h + x.halo_h, w + x.halo_w, c].astype("float32")
            (axis, index), *others = left
            at, over = _coordinate(index, data[axis], out[axis], mode)
            if data[axis] == out[axis]:
                return weighed([*places, index], others)
            if method == NEAREST:
                return weighed([*places, _nearest(at, over, data[axis], rounding)], others)
            first = te.floordiv(at, over)
            share = (at - first * over).astype("float32") * tirx.const(1 / over, "float32")
            low, high = (
                weighed([*places, _inside(place, data[axis])], others)
                for place in (first, first + 1)
            )
            return low * (tirx.const(1.0, "float32") - share) + high * share

        return guarded(
            inside(y, out, h, w),
            lambda: weighed([], [(2, d), (3, h - y.halo_h), (4, w - y.halo_w)]).astype(dtype),
            tirx.const(y.fill, dtype),
        )

    return prim_func([a], compute(y.shape(out), value, "resize3d"))


def _coordinate(index, before: int, behind: int, mode: str):
    """Where a place is read, as whole numbers p and q of p / q."""
    if mode == "asymmetric":
        return index * before, behind
    if mode == "align_corners":
        return index * (before - 1), max(behind - 1, 1)
    return (2 * index + 1) * before - behind, 2 * behind


def _nearest(at, over: int, size: int, rounding: str):
    """The whole number beside p / q."""
    if rounding == "floor":
        place = te.floordiv(at, over)
    elif rounding == "ceil":
        place = te.floordiv(at + over - 1, over)
    elif rounding == "round_prefer_ceil":
        place = te.floordiv(2 * at + over, 2 * over)
    else:
        place = te.floordiv(2 * at + over - 1, 2 * over)
    return _inside(place, size)


def _inside(place, size: int):
    return te.max(te.min(place, size - 1), 0)
