"""What the multiply-add pipes of this machine can do, measured: the scale for useful GFLOP/s."""

from __future__ import annotations

import numpy as np
import tvm
from tvm.script import tirx as T

from rt3d_tvm.compile.targets import make_target
from topi_sparse.cpu.register_tile import vector_unit

# Independent accumulators: more than the 8 that two pipes of 4 cycles latency need, and few enough
# for 16 registers.
_CHAINS = 12
# Steps of a run: some 0.2 ms, of which starting the threads is 1 %. A run has to fit into the
# milliseconds for which a busy machine leaves a thread alone: runs of 10 ms never did there, and
# showed an eighth of the peak. Runs of a look: some 20 ms.
_STEPS, _RUNS = 1 << 16, 100


class MultiplyAdds:
    """Multiply-adds on registers alone, on that many threads of this machine."""

    def __init__(self, threads: int) -> None:
        target = make_target("host")
        lanes = vector_unit(target).lanes
        module = tvm.IRModule({"main": _multiply_adds(threads, lanes)})
        self._main = tvm.compile(module, target=target).mod.time_evaluator(
            "main", tvm.cpu(), number=1, repeat=_RUNS
        )
        self._values = tvm.runtime.tensor(np.full((threads, _CHAINS * lanes), 0.5, "float32"))
        self._flops = 2 * threads * _CHAINS * lanes * _STEPS

    def gflops(self) -> float:
        """GFLOP/s of float32 that the best of many short runs reaches now."""
        return self._flops / min(self._main(self._values).results) / 1e9


def multiply_add_peak(threads: int, *, repeats: int = 5) -> float:
    """GFLOP/s of float32 multiply-adds on that many threads: the best of so many looks."""
    multiply_adds = MultiplyAdds(threads)
    return max(multiply_adds.gflops() for _ in range(repeats))


def _multiply_adds(threads: int, lanes: int) -> tvm.tirx.PrimFunc:
    @T.prim_func(s_tir=True, check_well_formed=False)
    def peak(
        # TVMScript reads the annotation: a buffer, no type.
        values: T.Buffer((threads, _CHAINS * lanes), "float32"),  # type: ignore[valid-type]
    ):
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
