"""Timing: engines beside each other, in one process and in turns; and the layers of a model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rt3d_tvm.deploy import Artifact
from rt3d_tvm.opencl.artifact import OpenCLArtifact, load_here
from rt3d_tvm.peak import multiply_add_peak

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


def bench_layers(
    folder: Path,
    x: np.ndarray,
    *,
    threads: int | None = None,
    device: str | None = None,
    runs: int = 20,
) -> list[CallTiming]:
    """Time every call of an artifact, over ``runs`` runs, in the order they are made.

    On a CPU timed from outside each call, so short ones look a little longer than they are; on an
    OpenCL device by its own clock. It loads the artifact for itself, as load_here does: TVM has no
    way to take its instrument off a loaded one again.
    """
    artifact = load_here(folder, threads=threads, device=device)
    if isinstance(artifact, OpenCLArtifact):
        run, peak = (lambda x: artifact.timed(x)[1]), None
    else:
        run, peak = call_timer(artifact), multiply_add_peak(artifact.threads)
    samples = [run(x) for _ in range(runs + 1)][1:]  # the first run makes threads and buffers
    medians = [statistics.median(values) for values in zip(*samples, strict=True)]
    return call_timings(artifact.manifest, medians, peak)


def call_timer(artifact: Artifact) -> Callable[[np.ndarray], list[float]]:
    """A function that runs the artifact and returns the milliseconds of each call, in order.

    From then on every run of the artifact is timed that way.
    """
    samples: list[float] = []
    started = 0.0

    def instrument(_function, name: str, before_run: bool, _result, *_arguments) -> None:
        nonlocal started
        if name.startswith("vm.builtin."):
            return
        if before_run:
            started = time.perf_counter()
        else:
            samples.append(1e3 * (time.perf_counter() - started))

    def run(x: np.ndarray) -> list[float]:
        samples.clear()
        artifact.run(x)
        return list(samples)

    artifact.vm.set_instrument(instrument)
    return run


def call_timings(manifest: dict, medians: Sequence[float], peak: float | None) -> list[CallTiming]:
    """The calls that a manifest lists with their times (ms), rated by the ``peak`` (GFLOP/s).

    None is a peak that is not known: of an OpenCL device.
    """
    layers = {layer["name"]: layer for layer in manifest["layers"]}
    timings = []
    for call, ms in zip(manifest["calls"], medians, strict=True):
        timing = CallTiming(**call, ms=ms, share=ms / sum(medians))
        if layer := layers.get(call["layer"]):
            gflops = 2 * layer["kept_macs"] / ms / 1e6
            timing = replace(
                timing,
                density=layer["density"],
                gflops=gflops,
                peak_share=None if peak is None else gflops / peak,
            )
        timings.append(timing)
    return timings
