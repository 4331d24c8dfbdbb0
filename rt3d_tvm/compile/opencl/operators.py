"""Packed operators written for work-items, instead of loop nests."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from tvm import relax

from rt3d_tvm.compile.ir.dataflow import ints
from rt3d_tvm.compile.ir.moved_values import concat_axis, packed_concat
from rt3d_tvm.compile.ir.packed_operators import Maker, windows_of
from topi_sparse.opencl.concat import opencl_concat, why_not_opencl_concat
from topi_sparse.opencl.max_pool3d import OpenCLMaxPool3d, opencl_max_pool3d
from topi_sparse.opencl.work_item import WorkItem, item_copies, item_pool_tile


def _max_pool(item: WorkItem, call: relax.Call, data, layouts, y, dtype):
    windows = windows_of(call)
    tile = item_pool_tile(
        windows["out"], window=windows["window"], stride=windows["stride"], item=item
    )
    pool = OpenCLMaxPool3d(
        **windows,
        data=data[0],
        padding=ints(call.attrs.padding)[:3],
        x=layouts[0],
        y=y,
        tile=tile,
        dtype=dtype,
    )
    return opencl_max_pool3d(pool)


def _concat(item: WorkItem, call: relax.Call, data, layouts, y, dtype):
    if concat_axis(call) != 1 or why_not_opencl_concat(data) is not None:
        return packed_concat(call, data, layouts, y, dtype)
    return opencl_concat(data, layouts, y, dtype, beside=item_copies(item))


def item_operators(item: WorkItem) -> Mapping[str, Maker]:
    """Operator -> what makes its packed PrimFunc for such work-items."""
    return {
        "relax.nn.max_pool3d": functools.partial(_max_pool, item),
        "relax.concat": functools.partial(_concat, item),
    }
