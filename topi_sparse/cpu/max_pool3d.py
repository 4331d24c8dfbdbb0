"""max_pool3d: the maximum over windows on packed activations, channels in lanes.

The algorithm, for each row (n, block, d, h) of the result::

    for w in columns of x:
        column[w] = max(x[n, block, plane, row, w] for each plane and row of the window)
    for w in columns of y:
        y[n, block, d, h, w] = max(column[c] for each column c of the window)

A column serves all windows that see it: a result of a 3x3x3 window takes 12 values instead of 27.
Where no two windows share one, each takes its values by itself. A row of columns stays in L1.

Padding counts as minus infinity. A plane or row outside is moved to the nearest one inside, which
is in the window as well, since its places are neighbours.
"""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import asdict, dataclass

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.halo import zero_halo
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
            zero_halo(pool.y, pool.out, pool.dtype, y)
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
    """The maximum of each column of the row's windows, then those of the windows."""
    before, breadth, read = pool.padding[2], pool.data[4], _columns_read(pool)
    lanes, tops = pool.x.c_block, _places(pool, x, at)
    columns = T.sblock_alloc_buffer((read * lanes,), pool.dtype, scope="local", layout=None)

    def lane(column):
        return T.Ramp(column * lanes, 1, lanes)

    nothing = T.Broadcast(tvm.tirx.const(-float("inf"), pool.dtype), lanes)
    for column in (*range(before), *range(before + breadth, read)):
        T.buffer_store(columns, nothing, [lane(column)])
    with T.serial(0, min(breadth, read - before)) as column:
        T.buffer_store(columns, _largest(top(column) for top in tops), [lane(before + column)])
    with T.serial(0, pool.out[4]) as w:
        seen = (columns[lane(w * pool.stride[2] + k)] for k in range(pool.window[2]))
        _store(pool, y, at, w, _largest(seen))


def _by_windows(pool: MaxPool3d, x, y, at: list) -> None:
    """The maximum of each window; those at the ends see less of the row."""
    before, breadth, tops = pool.padding[2], pool.data[4], _places(pool, x, at)

    def store(w, seen) -> None:
        first = w * pool.stride[2] - before
        _store(pool, y, at, w, _largest(top(first + k) for top in tops for k in seen))

    def seen(w: int) -> list[int]:
        first = w * pool.stride[2] - before
        return [k for k in range(pool.window[2]) if 0 <= first + k < breadth]

    inside = [w for w in range(pool.out[4]) if len(seen(w)) == pool.window[2]]
    for w in (w for w in range(pool.out[4]) if w not in inside):
        store(w, seen(w))
    if inside:
        with T.serial(inside[0], inside[-1] + 1) as w:
            store(w, range(pool.window[2]))


def _columns_read(pool: MaxPool3d) -> int:
    """Columns that the windows of a row see, those of the padding too."""
    return (pool.out[4] - 1) * pool.stride[2] + pool.window[2]


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
