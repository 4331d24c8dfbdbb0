"""opencl_pack: plain activations into channel blocks, for work-items.

In packed.pack every lane of a vector has a condition of its own, whether there is such a channel,
and a compiler for OpenCL takes the vector apart into branches. Here a work-item loads the numbers
of the channels that there are and stores them as one vector, for positions beside each other. The
halo is written apart, as every kernel's.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.halo import fill_halo
from topi_sparse.layout import PackedLayout, ceil_div
from topi_sparse.opencl.work_item import VECTOR
from topi_sparse.prim_func import begin, spatial

# The attribute of the PrimFunc by which its schedule knows it: the positions of a work-item.
PACK_ATTRIBUTE = "opencl_pack"


def opencl_pack(
    data: Sequence[int], layout: PackedLayout, dtype: str, *, plain: str, beside: int
) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, y) from plain (B, C, D, H, W) to packed values of ``dtype``.

    plain: the type of the plain ones. beside: positions of a row that a work-item packs, if there
    are so many; the last work-item of a row begins early enough to end with it.
    """
    batch, channels, depth, rows, columns = data
    beside = min(beside, columns)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        x, y = begin(
            PACK_ATTRIBUTE, beside, {"x": (data, plain), "y": (layout.shape(data), dtype)}
        ).values()
        with T.sblock("root"):
            fill_halo(layout, data, dtype, y)
            extents = (batch, y.shape[1], depth, rows, ceil_div(columns, beside))
            with T.grid(*extents) as loops, T.sblock("tile"):
                n, block, d, h, item = spatial(extents, loops)
                row = h + layout.halo_h
                T.reads(x[n, 0:channels, d, h, 0:columns])
                T.writes(y[n, block, d, row, 0 : y.shape[4], 0:VECTOR])
                first = T.bind(T.min(item * beside, columns - beside))
                # In registers: what TVM writes for a vector of numbers is no OpenCL C.
                vectors = [
                    T.sblock_alloc_buffer((VECTOR,), plain, scope="local") for _ in range(beside)
                ]

                def pack(count: int) -> None:
                    """So many channels of the block, and zeros above them."""
                    for i, vector in enumerate(vectors):
                        for c in range(VECTOR):
                            number = tvm.tirx.const(0, plain)
                            if c < count:
                                number = x[n, block * VECTOR + c, d, h, first + i]
                            T.buffer_store(vector, number, [c])
                        packed = vector[T.Ramp(0, 1, VECTOR)]
                        if dtype != plain:
                            packed = tvm.tirx.Cast(f"{dtype}x{VECTOR}", packed)
                        column = first + i + layout.halo_w
                        T.buffer_store(y, packed, [n, block, d, row, column, T.Ramp(0, 1, VECTOR)])

                full, rest = divmod(channels, VECTOR)
                if full and rest:
                    with T.If(block < full):
                        with T.Then():
                            pack(VECTOR)
                        with T.Else():
                            pack(rest)
                else:
                    pack(rest or VECTOR)
    return builder.get()
