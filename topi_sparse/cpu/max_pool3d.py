"""max_pool3d: the maximum over windows on packed activations, channels in lanes.

The algorithm, for each row (n, block, d, h) of the result, with a window of 3 and a stride of 1::

    left, middle = column(-1), column(0)
    for w in columns of y:
        right = column(w + 1)
        y[n, block, d, h, w] = max(left, middle, right)
        left, middle = middle, right

    column(w) = max(x[n, block, plane, row, w] for each plane and row of the window)

A column serves all windows that see it, from a register: a result of a 3x3x3 window takes 9 values
of the input instead of 27. Where no two windows share one, each takes its values by itself.

Padding counts as minus infinity. A place outside is moved to the nearest one inside, which is in
the window as well, since its places are neighbours.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.halo import fill_halo
from topi_sparse.layout import PackedLayout
from topi_sparse.prim_func import begin, spatial, typed
from topi_sparse.windows import whole

# The attribute of the PrimFunc under which its own definition stands, as JSON.
POOL_ATTRIBUTE = "max_pool3d"


@dataclass(frozen=True, kw_only=True)
class MaxPool3d:
    """All that defines one max_pool3d kernel; x and y have one channel block.

    data, out  (B, C, D, H, W) of the input and of the result
    padding    before the first plane, row and column
    x, y       layouts of the input and of the result
    """

    data: tuple[int, int, int, int, int]
    out: tuple[int, int, int, int, int]
    window: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]
    x: PackedLayout
    y: PackedLayout
    dtype: str = "float32"

    @property
    def shares_columns(self) -> bool:
        """Whether two windows of a row see one column."""
        return self.stride[2] < self.window[2] and self.out[4] > 1

    def to_json(self) -> str:
        """The definition as JSON, for the PrimFunc's attribute."""
        return json.dumps(asdict(self))


def max_pool3d(pool: MaxPool3d) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, y) of one pool, of blocks "halo" and "tile"."""
    batch, _, depth, height, breadth = pool.out
    lanes = pool.x.c_block
    extents = (batch, pool.x.shape(pool.data)[1], depth, height)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        shapes = {"x": pool.x.shape(pool.data), "y": pool.y.shape(pool.out)}
        x, y = begin(POOL_ATTRIBUTE, pool.to_json(), typed(shapes, pool.dtype)).values()
        with T.sblock("root"):
            fill_halo(pool.y, pool.out, pool.dtype, y)
            with T.grid(*extents) as loops, T.sblock("tile"):
                at = spatial(extents, loops)
                *_, h = at
                left = pool.y.halo_w
                T.reads(whole(x))
                T.writes(
                    y[(*at[:3], h + pool.y.halo_h, slice(left, left + breadth), slice(0, lanes))]
                )
                (_by_columns if pool.shares_columns else _by_windows)(pool, x, y, at)
    return builder.get()


def _by_columns(pool: MaxPool3d, x, y, at: list) -> None:
    """The columns that a window sees, the last of them anew with each step."""
    step, window, before = pool.stride[2], pool.window[2], pool.padding[2]
    lane, tops = [T.Ramp(0, 1, pool.x.c_block)], _places(pool, x, at)
    seen = [
        T.sblock_alloc_buffer((pool.x.c_block,), pool.dtype, layout=None) for _ in range(window)
    ]

    def take(w, k: int) -> None:
        """Column k of window w; at the ends of the row, whose windows are known, one inside."""
        column = w * step + (k - before)
        if isinstance(w, int):
            column = min(max(column, 0), pool.data[4] - 1)
        T.buffer_store(seen[k], _largest(top(column) for top in tops), lane)

    def result(w) -> None:
        for k in range(window - step, window):
            take(w, k)
        _store(pool, y, at, w, _largest(column[tuple(lane)] for column in seen))
        for column, following in zip(seen, seen[step:], strict=False):
            T.buffer_store(column, following[tuple(lane)], lane)

    for k in range(window - step):
        take(0, k)
    _along_row(pool, result, first=window - step)


def _by_windows(pool: MaxPool3d, x, y, at: list) -> None:
    """The maximum of each window; those at the ends see less of the row."""
    tops = _places(pool, x, at)

    def result(w) -> None:
        first = w * pool.stride[2] - pool.padding[2]
        seen = [first + k for k in range(pool.window[2])]
        if isinstance(w, int):
            seen = [column for column in seen if 0 <= column < pool.data[4]]
        _store(pool, y, at, w, _largest(top(column) for top in tops for column in seen))

    _along_row(pool, result, first=0)


def _along_row(pool: MaxPool3d, result: Callable, *, first: int) -> None:
    """``result(w)`` of each window: a number at the ends, where columns from ``first`` leave x."""

    def inside(w: int) -> bool:
        start = w * pool.stride[2] - pool.padding[2]
        return start + first >= 0 and start + pool.window[2] <= pool.data[4]

    windows = range(pool.out[4])
    whole_ones = [w for w in windows if inside(w)]
    begin, end = (whole_ones[0], whole_ones[-1] + 1) if whole_ones else (0, 0)
    for w in windows[:begin]:
        result(w)
    if whole_ones:
        with T.serial(begin, end) as w:
            result(w)
    for w in windows[end:]:
        result(w)


def _places(pool: MaxPool3d, x, at: list) -> list:
    """For each plane and row of the windows a function from a column to the vector there."""
    n, block, *along = at
    places = []
    for axis, index in enumerate(along):
        first, last = index * pool.stride[axis] - pool.padding[axis], pool.data[2 + axis] - 1
        outside = pool.padding[axis] or _reaches_behind(pool, axis)
        places.append(
            [
                T.bind(T.max(T.min(first + k, last), 0)) if outside else first + k
                for k in range(pool.window[axis])
            ]
        )

    def vector(plane, row, column):
        indices = [n, block, plane, row + pool.x.halo_h, column + pool.x.halo_w]
        return x[(*indices, T.Ramp(0, 1, pool.x.c_block))]

    return [functools.partial(vector, *place) for place in itertools.product(*places)]


def _reaches_behind(pool: MaxPool3d, axis: int) -> bool:
    """Whether the last window ends behind the input."""
    first = (pool.out[2 + axis] - 1) * pool.stride[axis] - pool.padding[axis]
    return first + pool.window[axis] > pool.data[2 + axis]


def _store(pool: MaxPool3d, y, at: list, w, value) -> None:
    n, block, d, h = at
    lane = T.Ramp(0, 1, pool.y.c_block)
    T.buffer_store(y, value, [n, block, d, h + pool.y.halo_h, w + pool.y.halo_w, lane])


def _largest(values):
    return functools.reduce(T.max, values)
