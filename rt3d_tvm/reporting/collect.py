"""Everything that a report says of compiled models, as JSON has it.

A model of several batches is timed in each, as a whole and kernel by kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

from rt3d_tvm.artifact.load import available_cores
from rt3d_tvm.artifact.verify import reference_session
from rt3d_tvm.compile.frontend import layer_nodes
from rt3d_tvm.compile.onnx_file import read_model
from rt3d_tvm.measure.bench import issued_operations
from rt3d_tvm.measure.disturbance import Watch
from rt3d_tvm.measure.record import host, stamped, versions
from rt3d_tvm.measure.timing import Timing
from rt3d_tvm.measure.turns import latency
from rt3d_tvm.reporting.accuracy import accuracy
from rt3d_tvm.reporting.artifacts import Opened, Settings, engines_by_batch, opened
from rt3d_tvm.reporting.gains import gains
from rt3d_tvm.reporting.memory import memory_mb
from rt3d_tvm.reporting.model import model_of

SCHEMA_VERSION = 2


def collect(settings: Settings, *, command: Sequence[str], progress: Callable[[str], None]) -> dict:
    """The report as JSON has it; schemas/report.json says what that is.

    InputError for an artifact of OpenCL, and for a file that none of the artifacts fits.
    """
    nodes = {} if settings.onnx is None else layer_nodes(settings.onnx)
    artifacts = opened(settings)
    threads = settings.threads or available_cores()
    left_out: list[str] = []
    engines = engines_by_batch(settings, artifacts, left_out)
    timed: dict[int, list[Timing]] = {}
    with Watch(threads) as watch:
        for batch, those in engines.items():
            several = f", batch {batch}" if len(engines) > 1 else ""
            progress(f"{settings.runs} runs of each{several}")
            timed[batch] = latency(those, threads=threads, runs=settings.runs)
    disturbance = watch.found(_labelled(timed), _issued(artifacts, timed))
    own = [{batch: timed[batch].pop(0) for batch in one.parts} for one in artifacts]
    models = [
        model_of(settings, one, timings, nodes, threads=threads, progress=progress)
        for one, timings in zip(artifacts, own, strict=True)
    ]
    file = _file(settings, artifacts[0], timed, threads)
    return {
        **stamped("report", SCHEMA_VERSION, command),
        "seed": settings.seed,
        "host": host(),
        "versions": versions(),
        "threads": threads,
        "runs": settings.runs,
        "models": models,
        "file": file,
        "gains": gains(models, file),
        "left_out": left_out,
        "disturbance": asdict(disturbance),
    }


def _labelled(timed: Mapping[int, Sequence[Timing]]) -> list[Timing]:
    """All timings, each under a name that says its batch where there are several."""
    if len(timed) == 1:
        return [timing for timings in timed.values() for timing in timings]
    return [
        replace(timing, name=f"{timing.name}, batch {batch}")
        for batch, timings in timed.items()
        for timing in timings
    ]


def _issued(artifacts: Sequence[Opened], timed: Mapping[int, Sequence[Timing]]) -> list[float]:
    """GFLOP/s that the kernels of artifacts in float32 issue in each batch."""
    found = []
    for batch, timings in timed.items():
        having = [one for one in artifacts if batch in one.parts]
        for one, timing in zip(having, timings, strict=False):
            if one.manifest["precision"]["name"] == "fp32":
                operations = issued_operations(one.parts[batch]["layers"])
                found.append(operations / timing.p50_ms / 1e6)
    return found


def _file(
    settings: Settings, first: Opened, timed: Mapping[int, Sequence[Timing]], threads: int
) -> dict | None:
    """The ONNX file: its size, its memory in ONNX Runtime, its accuracy, and its engines."""
    if settings.onnx is None:
        return None
    right = None
    if first.videos is not None:
        session = reference_session(settings.onnx, threads=threads)
        name = session.get_inputs()[0].name
        right = accuracy(lambda x: session.run(None, {name: x})[0], first.manifest, first.videos)
    return {
        "name": settings.onnx.name,
        "graph": read_model(settings.onnx).graph.name,
        "bytes": settings.onnx.stat().st_size,
        "memory_mb": memory_mb(settings.onnx, threads),
        "accuracy": right,
        "batches": [
            {"batch": batch, "timings": [asdict(timing) for timing in timings]}
            for batch, timings in timed.items()
            if timings
        ],
    }
