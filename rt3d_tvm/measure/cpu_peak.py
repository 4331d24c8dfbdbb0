"""What the multiply-add pipes of this machine can do, measured: the scale for useful GFLOP/s."""

from __future__ import annotations

import numpy as np
import tvm
from tvm.script import tirx as T

from rt3d_tvm.compile.targets import make_target
from topi_sparse.cpu.register_tile import vector_unit

# Independent accumulators: more than the 8 that two pipes of 4 cycles latency need, and few enough
# for 16 registers. Steps: some milliseconds.
_CHAINS, _STEPS = 12, 1 << 21


def multiply_add_peak(threads: int, *, repeats: int = 5) -> float:
    """GFLOP/s of float32 multiply-adds on registers alone, measured on that many threads now."""
    target = make_target("host")
    unit = vector_unit(target)
    function = _multiply_adds(threads, unit.lanes)
    library = tvm.compile(tvm.IRModule({"main": function}), target=target)
    values = tvm.runtime.tensor(np.full((threads, _CHAINS * unit.lanes), 0.5, "float32"))
    seconds = library.mod.time_evaluator("main", tvm.cpu(), number=1, repeat=repeats)(
        values
    ).results
    return 2 * threads * _CHAINS * unit.lanes * _STEPS / min(seconds) / 1e9


def _multiply_adds(threads: int, lanes: int) -> tvm.tirx.PrimFunc:
    @T.prim_func(s_tir=True, check_well_formed=False)
    def peak(values: T.Buffer((threads, _CHAINS * lanes), "float32")):
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        with T.sblock("root"):
            for thread in T.parallel(threads):
                with T.sblock("thread"):
                    v = T.axis.spatial(threads, thread)
                    T.reads(values[v, 0 : _CHAINS * lanes])
                    T.writes(values[v, 0 : _CHAINS * lanes])
                    acc = T.sblock_alloc_buffer((_CHAINS * lanes,), "float32", scope="local")
                    for i in T.unroll(_CHAINS):
                        acc[T.Ramp(i * lanes, 1, lanes)] = values[v, T.Ramp(i * lanes, 1, lanes)]
                    for _ in T.serial(_STEPS):
                        for i in T.unroll(_CHAINS):
                            acc[T.Ramp(i * lanes, 1, lanes)] = acc[
                                T.Ramp(i * lanes, 1, lanes)
                            ] * T.Broadcast(T.float32(0.999), lanes) + T.Broadcast(
                                T.float32(0.0005), lanes
                            )
                    for i in T.unroll(_CHAINS):
                        values[v, T.Ramp(i * lanes, 1, lanes)] = acc[T.Ramp(i * lanes, 1, lanes)]

    return peak
