"""Packed operators written for the vectors of a CPU, in place of loop nests."""

from __future__ import annotations

from tvm import relax

from rt3d_tvm.compile.ir.dataflow import ints
from rt3d_tvm.compile.ir.packed_operators import windows_of
from topi_sparse.cpu.max_pool3d import MaxPool3d, max_pool3d


def _max_pool(call: relax.Call, data, layouts, y, dtype):
    pool = MaxPool3d(
        **windows_of(call),
        data=data[0],
        padding=ints(call.attrs.padding)[:3],
        x=layouts[0],
        y=y,
        dtype=dtype,
    )
    return max_pool3d(pool)


# Operator -> what makes its packed PrimFunc.
CPU_OPERATORS = {"relax.nn.max_pool3d": _max_pool}
