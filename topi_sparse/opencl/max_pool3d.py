"""opencl_max_pool3d: the maximum over windows for work-items, a register tile of them each.

What a window shares with its neighbours is loaded and compared once for all of a tile: the largest
of the rows of each column first, of those the largest of the columns, and at last of the planes.
In place of 27 vectors a result of a 3x3x3 window takes 5 to 7 of them.

Padding counts as minus infinity: a place outside is moved to the nearest one inside, which is in
the window as well, since its places are neighbours. What is stored in float16 is compared in
float32, which is exact, and a CPU that computes in no float16 converts each number once.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.halo import fill_halo
from topi_sparse.layout import PackedLayout, ceil_div
from topi_sparse.opencl.work_item import VECTOR
from topi_sparse.prim_func import begin, spatial, typed
from topi_sparse.windows import whole

# The attribute of the PrimFunc under which its own definition stands, as JSON.
POOL_ATTRIBUTE = "opencl_max_pool3d"
# The type in which numbers are compared, whichever they are stored in.
COMPARED = "float32"


@dataclass(frozen=True, kw_only=True)
class OpenCLMaxPool3d:
    """All that defines one opencl_max_pool3d kernel; x and y have channel blocks of VECTOR.

    data, out  (B, C, D, H, W) of the input and of the result
    padding    before the first plane, row and column
    x, y       layouts of the input and of the result
    tile       results a work-item along D, H and W
    """

    data: tuple[int, int, int, int, int]
    out: tuple[int, int, int, int, int]
    window: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]
    x: PackedLayout
    y: PackedLayout
    tile: tuple[int, int, int]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if any(n > extent for n, extent in zip(self.tile, self.out[2:], strict=True)):
            raise ValueError(f"a tile of {self.tile} results: there are {self.out[2:]}")

    @property
    def items(self) -> tuple[int, int, int]:
        """Work-items along D, H and W; the last begins early enough to end with its axis."""
        return tuple(ceil_div(*each) for each in zip(self.out[2:], self.tile, strict=True))

    def to_json(self) -> str:
        """The definition as JSON, for the PrimFunc's attribute."""
        return json.dumps(asdict(self))


def opencl_max_pool3d(pool: OpenCLMaxPool3d) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, y) of one pool, of blocks "halo" and "tile"."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        shapes = {"x": pool.x.shape(pool.data), "y": pool.y.shape(pool.out)}
        x, y = begin(POOL_ATTRIBUTE, pool.to_json(), typed(shapes, pool.dtype)).values()
        with T.sblock("root"):
            fill_halo(pool.y, pool.out, pool.dtype, y)
            extents = (*pool.y.shape(pool.out)[:2], *pool.items)
            with T.grid(*extents) as loops, T.sblock("tile"):
                n, block, *item = spatial(extents, loops)
                T.reads(whole(x))
                T.writes(y[(n, block, *(slice(0, extent) for extent in y.shape[2:]))])
                _register_tile(pool, x, y, (n, block), item)
    return builder.get()


def _register_tile(pool: OpenCLMaxPool3d, x, y, at: tuple, item: list) -> None:
    """Plane by plane, each window's maximum of rows, of columns, and of the planes so far."""
    axes = [_Axis.of(pool, axis, index) for axis, index in enumerate(item)]
    planes, rows, columns = axes
    lanes = T.Ramp(0, 1, VECTOR)
    free: list = []

    def load(plane, row, column):
        value = x[(*at, plane, row + pool.x.halo_h, column + pool.x.halo_w, lanes)]
        return T.bind(value if pool.dtype == COMPARED else _cast(COMPARED, value))

    def store(value, plane, row, column) -> None:
        value = value if pool.dtype == COMPARED else _cast(pool.dtype, value)
        T.buffer_store(y, value, [*at, plane, row + pool.y.halo_h, column + pool.y.halo_w, lanes])

    def hold(value):
        """A register that holds a value, until it is in ``free`` again."""
        # No T.bind: TVM would write each maximum out again wherever it is taken further.
        register = free.pop() if free else T.sblock_alloc_buffer((VECTOR,), COMPARED, scope="local")
        T.buffer_store(register, value, [lanes])
        return register

    so_far: dict[tuple[int, int, int], tvm.tirx.Buffer] = {}
    for d, plane in planes.places.items():
        loaded: dict[tuple[int, int], tvm.tirx.PrimExpr] = {}
        for i, in_rows in enumerate(rows.windows):
            of_rows = {}
            for w, column in columns.places.items():
                for h in in_rows:
                    if (h, w) not in loaded:
                        loaded[h, w] = load(plane, rows.places[h], column)
                of_rows[w] = hold(_largest(loaded[h, w] for h in in_rows))
            for j, in_columns in enumerate(columns.windows):
                of_plane = hold(_largest(of_rows[w][lanes] for w in in_columns))
                for result in ((k, i, j) for k, into in enumerate(planes.windows) if d in into):
                    if result in so_far:
                        largest = T.max(so_far[result][lanes], of_plane[lanes])
                        T.buffer_store(so_far[result], largest, [lanes])
                    else:
                        so_far[result] = hold(of_plane[lanes])
                    if d == planes.windows[result[0]][-1]:
                        place = [axis.first + n for axis, n in zip(axes, result, strict=True)]
                        store(so_far[result][lanes], *place)
                        free.append(so_far.pop(result))
                free.append(of_plane)
            free += of_rows.values()


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """What a work-item reads along one axis.

    first    its first result
    places   where in the input, by a number of each
    windows  the numbers of the places that each of its results sees
    """

    first: object
    places: dict[int, object]
    windows: list[list[int]]

    @classmethod
    def of(cls, pool: OpenCLMaxPool3d, axis: int, item) -> _Axis:
        """Of the work-item that has this index along the axis."""
        results, step, before = pool.tile[axis], pool.stride[axis], pool.padding[axis]
        extent, size = pool.out[2 + axis], pool.data[2 + axis]
        windows = [[i * step + k for k in range(pool.window[axis])] for i in range(results)]
        if pool.items[axis] == 1:  # its places are known now, and none outside is read once more
            windows = [
                sorted({min(max(i - before, 0), size - 1) for i in window}) for window in windows
            ]
            return cls(first=0, places={i: i for i in _numbers(windows)}, windows=windows)
        first = T.bind(T.min(item * results, extent - results))
        places = {
            i: T.bind(T.max(T.min(first * step + (i - before), size - 1), 0))
            for i in _numbers(windows)
        }
        return cls(first=first, places=places, windows=windows)


def _numbers(windows: list[list[int]]) -> list[int]:
    return sorted(set(itertools.chain(*windows)))


def _cast(dtype: str, value):
    return tvm.tirx.Cast(f"{dtype}x{VECTOR}", value)


def _largest(values: Iterable):
    return functools.reduce(T.max, values)
