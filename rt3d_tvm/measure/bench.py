"""Timing: engines beside each other, in one process and in turns; and the layers of a model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from rt3d_tvm.artifact.load import Artifact
from rt3d_tvm.artifact.opencl.artifact import OpenCLArtifact, load_here
from rt3d_tvm.artifact.tensors import Tensors, arrays
from rt3d_tvm.artifact.verify import input_shapes, reference_session
from rt3d_tvm.errors import InputError
from rt3d_tvm.measure import opencl_peak as opencl_peak
from rt3d_tvm.measure.cpu_peak import FLOAT, INT, MultiplyAdds

# Worker threads of an engine spin for a while after a run, in the way of the next engine's.
PAUSE_S = 0.05
WARM_UP = 2
# How often the peak is measured beside the layers, and how much more than it a kernel may issue
# before the peak is not believed: a clock that rises between the two takes some per cent.
_PEAK_LOOKS, _MOST_ISSUED = 10, 1.1


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of one engine: every run, and what so many per cent of them stay below.

    ``ratio`` is of the medians, to the first engine.
    """

    engine: str
    median_ms: float
    p90_ms: float
    p99_ms: float
    ratio: float
    samples_ms: tuple[float, ...]

    @classmethod
    def of(cls, engine: str, samples_ms: Sequence[float], *, first_ms: float | None) -> Timing:
        """The timing of those runs; ``first_ms``: the first engine's median, None where it is."""
        median, p90, p99 = (float(ms) for ms in np.percentile(samples_ms, (50, 90, 99)))
        return cls(
            engine=engine,
            median_ms=median,
            p90_ms=p90,
            p99_ms=p99,
            ratio=median / (first_ms or median),
            samples_ms=tuple(samples_ms),
        )


def bench(
    engines: Mapping[str, Callable[[Tensors], object]], x: Tensors, *, runs: int = 20
) -> list[Timing]:
    """Time every engine on the input ``x``, an array or several by name, ``runs`` times, in turns.

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
    timings: list[Timing] = []
    for name, taken in samples.items():
        first_ms = timings[0].median_ms if timings else None
        timings.append(Timing.of(name, taken, first_ms=first_ms))
    return timings


def onnx_engine(path: Path, manifest: dict, threads: int) -> Callable[[Tensors], object]:
    """ONNX Runtime on a file, on so many threads; InputError for one of another model."""
    session = reference_session(path, threads=threads)
    found, shapes = input_shapes(session, manifest), [e["shape"] for e in manifest["inputs"]]
    if found != shapes:
        theirs, ours = (" and ".join(map(str, each)) for each in (found, shapes))
        raise InputError(f"{path} takes {theirs}, the artifact {ours}: not of one model")
    names = [each.name for each in session.get_inputs()]
    return lambda clip: session.run(None, dict(zip(names, arrays(clip), strict=True)))


@dataclass(frozen=True, eq=False)
class DeviceClock:
    """An artifact on an OpenCL device as an engine, which notes what the device's clock says.

    kernels_ms: of each run the sum over its kernels, without upload, download and what is between.
    """

    artifact: OpenCLArtifact
    kernels_ms: list[float] = field(default_factory=list)

    def __call__(self, x: Tensors) -> Tensors:
        """Run the artifact."""
        result, calls = self.artifact.timed(x)
        self.kernels_ms.append(sum(calls))
        return result

    def timing(self, first: Timing) -> Timing:
        """The kernels of the runs that ``first``, of this engine, timed from outside."""
        samples = self.kernels_ms[-len(first.samples_ms) :]
        return Timing.of("its kernels alone", samples, first_ms=first.median_ms)


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
    looks: dict[str, Callable[[], float]] = {}
    run: Callable[[Tensors], list[float]]
    types = {_arithmetic([layer]) for layer in artifact.manifest["layers"]}
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
        timings = call_timings(artifact.manifest, list(zip(*samples, strict=True)), peaks)
        if not any(timing.is_implausible for timing in timings):
            break
        look()
    return timings


def _arithmetic(layers: Sequence[dict]) -> str:
    """The type whose peak the kernel of these layers is rated by."""
    return INT if any(layer["dtype"] in ("uint8", "int8") for layer in layers) else FLOAT


def _issued(layers: Sequence[dict]) -> float:
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
                issued_share=_issued(of_call) / ms / 1e6 / peak,
            )
        timings.append(timing)
    return timings
