"""What the multiply-add pipes of this machine can do, measured: the scale for useful GFLOP/s."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm.script import tirx as T

from rt3d_tvm.artifact.threads import kernel_thread
from rt3d_tvm.compile.targets import make_target
from topi_sparse.cpu.dot_unit import CHANNELS, DotUnit, dot_unit
from topi_sparse.cpu.register_tile import vector_unit

# Independent accumulators: more than the 8 that two pipes of 4 cycles latency need, or the 10 of 5
# cycles, and few enough for 16 registers.
_CHAINS = 12
# The types whose peaks can be measured.
FLOAT, INT = "float32", "int8"
# Steps of a run: some 0.2 ms, of which starting the threads is 1 %. A run has to fit into the
# milliseconds for which a busy machine leaves a thread alone: runs of 10 ms never did there, and
# showed an eighth of the peak. Runs of a look: some 20 ms.
_STEPS, _RUNS = 1 << 16, 100


class MultiplyAdds:
    """Multiply-adds on registers alone, on that many threads of this machine.

    dtype: float32; or int8, by the instruction that its kernels are made of here. ValueError where
    there are none.
    """

    def __init__(self, threads: int, dtype: str = FLOAT) -> None:
        target = make_target("host")
        if dtype == FLOAT:
            lanes, each, step = vector_unit(target).lanes, 1, multiplied
        elif dtype == INT and (unit := dot_unit(target)) is not None:
            # All parts of a filter's sums together take the channels of a group.
            lanes, step = unit.lanes, step_of(unit)
            each = CHANNELS * unit.products.columns // unit.parts
        else:
            raise ValueError(f"there are no kernels of {dtype} for target {target}")
        stored = FLOAT if dtype == FLOAT else "int32"
        module = tvm.IRModule({"main": multiply_adds(threads, lanes, stored, step)})
        self._main = tvm.compile(module, target=target).mod.time_evaluator(
            "main", tvm.cpu(), number=1, repeat=_RUNS
        )
        # Where the kernels run that it is compared with: a thread that has set no number of its own
        # has half of the cores.
        self._threads, self._thread = threads, kernel_thread(threads)
        start = np.full((threads, _CHAINS * lanes), 0.5 if dtype == FLOAT else 1, stored)
        self._values = tvm.runtime.tensor(start)
        self._flops = 2 * threads * _CHAINS * lanes * each * _STEPS

    def gflops(self) -> float:
        """GFLOP/s (of int8: 1e9 operations) that the best of many short runs reaches now."""
        taken = self._thread.call(self._threads, self._main, self._values)
        return self._flops / min(taken.results) / 1e9


def multiply_add_peak(threads: int, dtype: str = FLOAT, *, repeats: int = 5) -> float:
    """GFLOP/s of multiply-adds of ``dtype`` on that many threads: the best of so many looks."""
    looks = MultiplyAdds(threads, dtype)
    return max(looks.gflops() for _ in range(repeats))


def multiplied(sums, lanes: int):
    """One multiply-add of float32 on a vector of sums."""
    factor, summand = (T.Broadcast(T.float32(value), lanes) for value in (0.999, 0.0005))
    return sums * factor + summand


def step_of(unit: DotUnit) -> Callable:
    """One multiply-add of int8 on a vector of sums; the sums are the inputs, so that none is
    known before."""
    parts = unit.parts

    def of(sums, lanes: int):
        few = list(range(lanes // parts))
        inputs = sums if parts == 1 else tvm.tirx.Shuffle([sums], few)
        weights = T.Broadcast(T.int8(3), CHANNELS * lanes // parts)
        return unit.products.multiply(sums, inputs, weights, lanes)

    return of


def multiply_adds(threads: int, lanes: int, dtype: str, step: Callable) -> tvm.tirx.PrimFunc:
    """The loop that is timed: ``step(sums, lanes)`` on every chain, in each step."""

    @T.prim_func(s_tir=True, check_well_formed=False)
    def peak(
        # TVMScript reads the annotation: a buffer, no type.
        values: T.Buffer((threads, _CHAINS * lanes), dtype),  # type: ignore[valid-type]
    ):
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        with T.sblock("root"):
            for thread in T.parallel(threads):
                with T.sblock("thread"):
                    v = T.axis.spatial(threads, thread)
                    T.reads(values[v, 0 : _CHAINS * lanes])
                    T.writes(values[v, 0 : _CHAINS * lanes])
                    acc = T.sblock_alloc_buffer((_CHAINS * lanes,), dtype, scope="local")
                    for i in T.unroll(_CHAINS):
                        acc[T.Ramp(i * lanes, 1, lanes)] = values[v, T.Ramp(i * lanes, 1, lanes)]
                    for _ in T.serial(_STEPS):
                        for i in T.unroll(_CHAINS):
                            acc[T.Ramp(i * lanes, 1, lanes)] = step(
                                acc[T.Ramp(i * lanes, 1, lanes)], lanes
                            )
                    for i in T.unroll(_CHAINS):
                        values[v, T.Ramp(i * lanes, 1, lanes)] = acc[T.Ramp(i * lanes, 1, lanes)]

    return peak
