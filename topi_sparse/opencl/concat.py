"""opencl_concat: packed values behind each other along the channels, for work-items.

As packed.concat where every part but the last fills its channel blocks. There each vector works out
by itself where it is from, which takes a CPU several times as long as to copy it; here a work-item
does for positions beside each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.halo import fill_halo
from topi_sparse.layout import PackedLayout, ceil_div
from topi_sparse.opencl.work_item import VECTOR
from topi_sparse.prim_func import begin, spatial, typed
from topi_sparse.windows import whole

# The attribute of the PrimFunc by which its schedule knows it: the positions of a work-item.
CONCAT_ATTRIBUTE = "opencl_concat"


def why_not_opencl_concat(data: Sequence[Sequence[int]]) -> str | None:
    """Why parts of these shapes cannot be put together by vectors, or None where they can."""
    for part in data[:-1]:
        if part[1] % VECTOR:
            return f"a part has {part[1]} channels, no multiple of {VECTOR}"
    return None


def opencl_concat(
    data: Sequence[Sequence[int]],
    layouts: Sequence[PackedLayout],
    y: PackedLayout,
    dtype: str,
    *,
    beside: int,
) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x0, x1, ..., y) of parts (B, C, D, H, W), of blocks "halo" and "tile".

    beside: positions of a row that a work-item copies, if there are so many; the last work-item of
    a row begins early enough to end with it.
    """
    batch, _, depth, rows, columns = data[0]
    out = (batch, sum(part[1] for part in data), depth, rows, columns)
    beside = min(beside, columns)
    ends = list(itertools.accumulate(ceil_div(part[1], VECTOR) for part in data))
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        shapes = {f"x{i}": layouts[i].shape(part) for i, part in enumerate(data)}
        shapes["y"] = y.shape(out)
        *parts, result = begin(CONCAT_ATTRIBUTE, beside, typed(shapes, dtype)).values()
        with T.sblock("root"):
            fill_halo(y, out, dtype, result)
            extents = (batch, ends[-1], depth, rows, ceil_div(columns, beside))
            with T.grid(*extents) as loops, T.sblock("tile"):
                n, block, d, h, item = spatial(extents, loops)
                T.reads(*(whole(part) for part in parts))
                T.writes(result[n, block, d, h + y.halo_h, 0 : result.shape[4], 0:VECTOR])
                first = T.bind(T.min(item * beside, columns - beside))

                def copy(i: int) -> None:
                    """What the block of the result holds of part ``i``."""
                    layout, lanes = layouts[i], T.Ramp(0, 1, VECTOR)
                    source = n, block - (ends[i - 1] if i else 0), d, h + layout.halo_h
                    for column in range(beside):
                        value = parts[i][(*source, first + column + layout.halo_w, lanes)]
                        at = n, block, d, h + y.halo_h, first + column + y.halo_w, lanes
                        T.buffer_store(result, value, list(at))

                def copy_from(i: int) -> None:
                    """From part ``i`` or one behind it."""
                    if i + 1 == len(parts):
                        copy(i)
                        return
                    with T.If(block < ends[i]):
                        with T.Then():
                            copy(i)
                        with T.Else():
                            copy_from(i + 1)

                copy_from(0)
    return builder.get()
