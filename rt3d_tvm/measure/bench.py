"""Timing: engines beside each other, in one process and in turns; and the layers of a model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rt3d_tvm.artifact.batches import part_for
from rt3d_tvm.artifact.load import Artifact
from rt3d_tvm.artifact.opencl.artifact import OpenCLArtifact, load_here
from rt3d_tvm.artifact.tensors import Tensors
from rt3d_tvm.measure import opencl_peak as opencl_peak
from rt3d_tvm.measure.cpu_peak import FLOAT, INT, MultiplyAdds
from rt3d_tvm.measure.timing import Timing as Timing
from rt3d_tvm.measure.turns import in_turns

# How often the peak is measured beside the layers, and how much more than it a kernel may issue
# before the peak is not believed: a clock that rises between the two takes some per cent.
_PEAK_LOOKS, _MOST_ISSUED = 10, 1.1


def bench(
    engines: Mapping[str, Callable[[Tensors], object]], x: Tensors, *, runs: int = 20
) -> list[Timing]:
    """Time every engine on the input ``x``, an array or several by name, ``runs`` times, in turns.

    In turns, because the clock of a machine drifts: ratios between medians then still hold.
    """
    samples = in_turns([partial(run, x) for run in engines.values()], runs=runs)
    timings: list[Timing] = []
    for name, taken in zip(engines, samples, strict=True):
        first_ms = timings[0].p50_ms if timings else None
        timings.append(Timing.of(name, taken, first_ms=first_ms))
    return timings


@dataclass(frozen=True, kw_only=True)
class CallTiming:
    """Milliseconds of one call inside a model: their median, and its share of all calls'.

    For layers (two, where one kernel computes both) also their density, the multiply-adds of their
    kept weights at 2 operations each (``gflops``, useful ones only), and their share of the peak of
    the threads that ran them: of float32's multiply-adds, of an 8-bit layer of int8's. Winograd's
    kernels need fewer than these: ``issued_share`` is of those that the kernel issues, in the time
    of that type.
    """

    function: str
    layers: tuple[str, ...]
    ms: float
    share: float
    density: float | None = None
    gflops: float | None = None
    peak_share: float | None = None
    issued_share: float | None = None
    samples_ms: tuple[float, ...] = ()

    @property
    def is_implausible(self) -> bool:
        """Whether the kernel issues more than the peak: then that was measured too low."""
        return self.issued_share is not None and self.issued_share > _MOST_ISSUED


def bench_layers(
    folder: Path,
    x: Tensors,
    *,
    threads: int | None = None,
    device: str | None = None,
    runs: int = 20,
) -> list[CallTiming]:
    """Time every call of an artifact, over ``runs`` runs, in the order they are made.

    On a CPU timed from outside each call, so short ones look a little longer than they are; on an
    OpenCL device by its own clock. The peak is measured between the runs, and again where a kernel
    seems to have done more. It loads the artifact for itself, as load_here does: TVM has no way to
    take its instrument off a loaded one again.
    """
    artifact = load_here(folder, threads=threads, device=device)
    manifest = part_for(artifact.manifest, x)
    looks: dict[str, Callable[[], float]] = {}
    run: Callable[[Tensors], list[float]]
    types = {_arithmetic([layer]) for layer in manifest["layers"]}
    if isinstance(artifact, OpenCLArtifact):
        looks[FLOAT] = partial(
            opencl_peak.multiply_add_peak, artifact.executor.device, artifact.accumulate
        )
        run = artifact.call_ms
    else:
        looks = {each: MultiplyAdds(artifact.threads, each).gflops for each in sorted(types)}
        run = call_timer(artifact)
    run(x)  # makes threads and buffers
    samples, peaks = [], dict.fromkeys(looks, 0.0)

    def look() -> None:
        for each, gflops in looks.items():
            peaks[each] = max(peaks[each], gflops())

    for _ in range(runs):
        samples.append(run(x))
        if len(samples) <= _PEAK_LOOKS:
            look()
    for _ in range(_PEAK_LOOKS):
        timings = call_timings(manifest, list(zip(*samples, strict=True)), peaks)
        if not any(timing.is_implausible for timing in timings):
            break
        look()
    return timings


def _arithmetic(layers: Sequence[dict]) -> str:
    """The type whose peak the kernel of these layers is rated by."""
    return INT if any(layer["dtype"] in ("uint8", "int8") for layer in layers) else FLOAT


def issued_operations(layers: Sequence[dict]) -> float:
    """Operations that the kernels of layers issue, in the time of float32's or, of 8-bit ones,
    int8's: float16's take half of float32's."""
    return sum(
        2 * (layer.get("issued_macs") or 0) / (2 if layer["dtype"] == "float16" else 1)
        for layer in layers
    )


def call_timer(artifact: Artifact) -> Callable[[Tensors], list[float]]:
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

    def run(x: Tensors) -> list[float]:
        samples.clear()
        artifact.run(x)
        return list(samples)

    artifact.vm.set_instrument(instrument)
    return run


def call_timings(
    manifest: dict, samples: Sequence[Sequence[float]], peaks: Mapping[str, float]
) -> list[CallTiming]:
    """The calls that a manifest lists with their times (ms).

    peaks: in GFLOP/s, of float32 and, where there are 8-bit layers, of int8.
    """
    layers = {layer["name"]: layer for layer in manifest["layers"]}
    medians = [statistics.median(taken) for taken in samples]
    timings = []
    for call, ms, taken in zip(manifest["calls"], medians, samples, strict=True):
        timing = CallTiming(
            function=call["function"],
            layers=tuple(call["layers"]),
            ms=ms,
            share=ms / sum(medians),
            samples_ms=tuple(taken),
        )
        if of_call := [layers[name] for name in timing.layers]:
            kept = sum(layer["kept_macs"] for layer in of_call)
            density = sum(layer["density"] * layer["dense_macs"] for layer in of_call)
            density /= sum(layer["dense_macs"] for layer in of_call)
            gflops = 2 * kept / ms / 1e6
            peak = peaks[_arithmetic(of_call)]
            timing = replace(
                timing,
                density=density,
                gflops=gflops,
                peak_share=gflops / peak,
                issued_share=issued_operations(of_call) / ms / 1e6 / peak,
            )
        timings.append(timing)
    return timings
