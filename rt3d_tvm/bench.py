"""Timing: engines beside each other, in one process and in turns; and the layers of a model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm.script import tirx as T

from rt3d_tvm.deploy import Artifact
from rt3d_tvm.targets import make_target
from topi_sparse.register_tile import vector_unit

# Worker threads of an engine spin for a while after a run, in the way of the next engine's.
PAUSE_S = 0.05
WARM_UP = 2


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of one engine: every run, and their median; ``ratio`` is to the first engine."""

    engine: str
    median_ms: float
    ratio: float
    samples_ms: tuple[float, ...]


def bench(
    engines: Mapping[str, Callable[[np.ndarray], object]], x: np.ndarray, *, runs: int = 20
) -> list[Timing]:
    """Time every engine on the input ``x``, ``runs`` times, in turns.

    In turns, because the clock of a machine drifts: ratios between medians then still hold.
    """
    for run in engines.values():
        for _ in range(WARM_UP):
            run(x)
    samples: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(runs):
        for name, run in engines.items():
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            run(x)
            samples[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in samples.items()}
    first = next(iter(medians.values()))
    return [
        Timing(
            engine=name,
            median_ms=medians[name],
            ratio=medians[name] / first,
            samples_ms=tuple(samples[name]),
        )
        for name in engines
    ]


@dataclass(frozen=True, kw_only=True)
class CallTiming:
    """Median milliseconds of one call inside a model, and its share of them all.

    For a layer also its density, the multiply-adds of its kept weights at 2 FLOP each (``gflops``,
    useful ones only), and their share of the multiply-add peak of the threads that ran it.
    """

    function: str
    layer: str | None
    ms: float
    share: float
    density: float | None = None
    gflops: float | None = None
    peak_share: float | None = None


def bench_layers(artifact: Artifact, x: np.ndarray, *, runs: int = 20) -> list[CallTiming]:
    """Time every call of a model, over ``runs`` runs, in the order they are made.

    Timed from outside each call, so short ones look a little longer than they are.
    """
    calls = artifact.manifest["calls"]
    samples: list[list[float]] = []
    started = 0.0

    def instrument(_function, name: str, before_run: bool, _result, *_arguments) -> None:
        nonlocal started
        if name.startswith("vm.builtin."):
            return
        if before_run:
            started = time.perf_counter()
        else:
            samples[-1].append(1e3 * (time.perf_counter() - started))

    artifact.run(x)
    artifact.vm.set_instrument(instrument)
    for _ in range(runs):
        samples.append([])
        artifact.run(x)
    medians = [statistics.median(values) for values in zip(*samples, strict=True)]
    peak = multiply_add_peak(artifact.threads)
    layers = {layer["name"]: layer for layer in artifact.manifest["layers"]}
    timings = []
    for call, ms in zip(calls, medians, strict=True):
        timing = CallTiming(**call, ms=ms, share=ms / sum(medians))
        if layer := layers.get(call["layer"]):
            gflops = 2 * layer["kept_macs"] / ms / 1e6
            timing = replace(
                timing, density=layer["density"], gflops=gflops, peak_share=gflops / peak
            )
        timings.append(timing)
    return timings


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


# Independent accumulators: more than the 8 that two pipes of 4 cycles latency need, and few enough
# for 16 registers. Steps: some milliseconds.
_CHAINS, _STEPS = 12, 1 << 21


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
