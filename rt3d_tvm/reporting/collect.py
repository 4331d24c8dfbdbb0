"""Everything that a report says of compiled models: measured, compared, read from their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rt3d_tvm.artifact.format import MANIFEST, MODEL, WEIGHTS, read_manifest
from rt3d_tvm.artifact.load import available_cores, load
from rt3d_tvm.artifact.opencl.artifact import is_for_opencl
from rt3d_tvm.artifact.tensors import Tensors, noise
from rt3d_tvm.artifact.verify import reference_session, verify
from rt3d_tvm.compile.frontend import LayerNode, layer_nodes
from rt3d_tvm.compile.onnx_file import read_model
from rt3d_tvm.engines.engine import artifact_engine
from rt3d_tvm.engines.onnx_file import onnx_engines
from rt3d_tvm.errors import InputError
from rt3d_tvm.measure.bench import CallTiming, bench_layers, issued_operations
from rt3d_tvm.measure.disturbance import Watch
from rt3d_tvm.measure.layer_errors import layer_errors, why_not
from rt3d_tvm.measure.record import about, host, stamped, versions
from rt3d_tvm.measure.timing import Timing
from rt3d_tvm.measure.turns import latency
from rt3d_tvm.reporting.accuracy import accuracy, labelled_videos
from rt3d_tvm.reporting.memory import memory_mb
from rt3d_tvm.reporting.picture import kept_shares, picture

if TYPE_CHECKING:
    from rt3d_tvm.data.datasets import VideoDataset

SCHEMA_VERSION = 1
RUNS = 20
# Densities that differ by more are of two prunings.
_SAME_DENSITY = 0.02


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a report is made of.

    onnx: what the artifacts were compiled from, or what they are compared with: without it there
    is no error, no picture and no other engine. data: labelled videos, for the accuracy.
    preprocessing: of each artifact what `artifact.description.prepared` takes in its stead.
    all_engines: whether each of ``engines`` has to run the file; else one that cannot is left out.
    """

    folders: Sequence[Path]
    onnx: Path | None = None
    data: Path | None = None
    preprocessing: Sequence[Mapping[str, Any]] = ()
    engines: Sequence[str] = ("onnxruntime",)
    all_engines: bool = True
    runs: int = RUNS
    threads: int | None = None
    seed: int = 0


def collect(settings: Settings, *, command: Sequence[str], progress: Callable[[str], None]) -> dict:
    """The report as JSON has it; schemas/report.json says what that is.

    InputError for an artifact of OpenCL, and for a file that none of the artifacts fits.
    """
    manifests = [read_manifest(folder / MANIFEST) for folder in settings.folders]
    for folder, manifest in zip(settings.folders, manifests, strict=True):
        if is_for_opencl(manifest):
            raise InputError(f"{folder} is for an OpenCL device; a report is of models on cores")
    threads = settings.threads or available_cores()
    rng = np.random.default_rng(settings.seed)
    inputs = [noise(manifest, rng) for manifest in manifests]
    nodes = {} if settings.onnx is None else layer_nodes(settings.onnx)
    left_out: list[str] = []
    engines = [
        artifact_engine(folder, manifest, x)
        for folder, manifest, x in zip(settings.folders, manifests, inputs, strict=True)
    ]
    if settings.onnx is not None:
        refused = None if settings.all_engines else left_out
        names = settings.engines
        engines += onnx_engines(settings.onnx, names, manifests, inputs, left_out=refused)
    given = settings.preprocessing or [{}] * len(manifests)
    videos = [
        None if settings.data is None else labelled_videos(settings.data, manifest, folder, **how)
        for folder, manifest, how in zip(settings.folders, manifests, given, strict=True)
    ]
    progress(f"{settings.runs} runs of each")
    with Watch(threads) as watch:
        timings = latency(engines, threads=threads, runs=settings.runs)
    models = []
    for place, folder in enumerate(settings.folders):
        progress(f"{folder}: layer by layer")
        one = _model(settings, folder, manifests[place], inputs[place], nodes, threads)
        right = None
        if videos[place] is not None:
            progress(f"{folder}: accuracy on {len(videos[place])} videos")
            run = load(folder, threads=threads).run
            right = accuracy(run, manifests[place], videos[place])
        models.append({**one, "accuracy": right, "timing": asdict(timings[place])})
    issued = [
        issued_operations(manifest["layers"]) / timing.p50_ms / 1e6
        for manifest, timing in zip(manifests, timings, strict=False)
        if manifest["precision"]["name"] == "fp32"
    ]
    file = _file(settings, manifests[0], videos[0], timings[len(models) :], threads)
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
        "disturbance": asdict(watch.found(timings, issued)),
    }


def _model(
    settings: Settings,
    folder: Path,
    manifest: dict,
    x: Tensors,
    nodes: Mapping[str, LayerNode],
    threads: int,
) -> dict:
    timings = bench_layers(folder, x, threads=threads, runs=settings.runs)
    layers = manifest["layers"]
    why = None if settings.onnx is None else other_model(layers, nodes)
    fits = settings.onnx is not None and why is None
    checked, errors, why = _compared(settings, folder, manifest, x) if fits else (None, {}, why)
    dense, kept = (sum(layer[key] for layer in layers) for key in ("dense_macs", "kept_macs"))
    return {
        "name": folder.name or str(folder),
        "artifact": about(folder, manifest),
        "bytes": sum((folder / name).stat().st_size for name in (MODEL, WEIGHTS)),
        "memory_mb": memory_mb(folder, threads),
        "dense_macs": dense,
        "kept_macs": kept,
        "pruning_rate": dense / max(kept, 1),
        "verification": checked,
        "same_layers": all(layer["name"] in nodes for layer in layers),
        "why_no_errors": why,
        "layout_changes": manifest["layout_changes"],
        "not_packed": manifest["not_packed"],
        "calls": [_call(timing, layers, nodes if fits else {}, errors) for timing in timings],
        "timeline": timeline(timings),
    }


def other_model(layers: Sequence[dict], nodes: Mapping[str, LayerNode]) -> str | None:
    """Why a file's layers are not those of an artifact; None where they may be.

    Each layer has to be there, in the same type, and to keep as much.
    """
    for layer in layers:
        if layer["name"] not in nodes:
            return f"the file has no layer {layer['name']}"
        weight = nodes[layer["name"]].weight
        if weight is None:
            continue
        in_8_bits = weight.dtype.itemsize == 1
        # Weights may be stored in float32 where they are few.
        here = {layer["dtype"], layer["weight_dtype"]} & {"int8", "uint8"}
        if in_8_bits != bool(here) and layer["float32_reason"] is None:
            return f"{layer['name']} is in {'8 bits' if in_8_bits else 'float32'} in the file only"
        kept = float((weight != 0).mean())
        if abs(kept - layer["density"]) > _SAME_DENSITY:
            return (
                f"{layer['name']} keeps {kept:.0%} of its weights in the file and "
                f"{layer['density']:.0%} here"
            )
    return None


def _compared(
    settings: Settings, folder: Path, manifest: dict, x: Tensors
) -> tuple[dict, dict[tuple[str, ...], float | None], str | None]:
    """The whole model beside ONNX Runtime, each kernel's error, and why the latter are missing."""
    whole = verify(folder, settings.onnx, inputs=1, seed=settings.seed)
    error = None if whole.not_finite else whole.max_rel_error
    checked = {"max_rel_error": error, "limit": whole.limit, "passed": whole.passed}
    if (reason := why_not(manifest)) is not None:
        return checked, {}, reason
    found = layer_errors(folder, settings.onnx, x)
    return checked, {each.layers: each.max_rel_error for each in found}, None


def _call(
    timing: CallTiming,
    layers: Sequence[dict],
    nodes: Mapping[str, LayerNode],
    errors: Mapping[tuple[str, ...], float | None],
) -> dict:
    by_name = {layer["name"]: layer for layer in layers}
    return {
        "function": timing.function,
        "layers": [_layer(by_name[name], nodes.get(name)) for name in timing.layers],
        "ms": timing.ms,
        "share": timing.share,
        "density": timing.density,
        "gflops": timing.gflops,
        "peak_share": timing.peak_share,
        "is_implausible": timing.is_implausible,
        "max_rel_error": errors.get(timing.layers),
    }


def _layer(layer: dict, node: LayerNode | None) -> dict:
    """What the manifest says of a layer, and the picture of what is kept."""
    keys = ("name", "weight", "out", "density", "dense_macs", "kept_macs", "kernel", "group")
    said = {key: layer[key] for key in (*keys, "dtype", "tuned", "reason", "float32_reason")}
    image = None
    if node is not None and node.weight is not None and layer["group"]:
        g_m, g_n = map(int, layer["group"].split("x"))
        image = picture(kept_shares(node.weight, g_m, g_n))
    return {**said, "node": None if node is None else node.node, "picture": image}


def timeline(timings: Sequence[CallTiming]) -> list[dict]:
    """Start and length in ms of each call, in the fastest run: the one that was disturbed least.

    What is between two calls is not timed: each begins where the one before it ends.
    """
    fastest = min(zip(*(timing.samples_ms for timing in timings), strict=True), key=sum)
    starts = np.cumsum([0.0, *fastest[:-1]]).tolist()
    return [{"start_ms": start, "ms": ms} for start, ms in zip(starts, fastest, strict=True)]


def _file(
    settings: Settings,
    manifest: dict,
    videos: VideoDataset | None,
    timings: Sequence[Timing],
    threads: int,
) -> dict | None:
    """The ONNX file: its size, its memory in ONNX Runtime, its accuracy, and its engines."""
    if settings.onnx is None:
        return None
    right = None
    if videos is not None:
        session = reference_session(settings.onnx, threads=threads)
        name = session.get_inputs()[0].name
        right = accuracy(lambda x: session.run(None, {name: x})[0], manifest, videos)
    return {
        "name": settings.onnx.name,
        "graph": read_model(settings.onnx).graph.name,
        "bytes": settings.onnx.stat().st_size,
        "memory_mb": memory_mb(settings.onnx, threads),
        "accuracy": right,
        "timings": [asdict(timing) for timing in timings],
    }


def gains(models: Sequence[dict], file: dict | None) -> list[dict]:
    """What each model gained: over each engine of its file, and over the first model.

    One with other layers than the file's gained nothing over it.
    """
    found = []
    for place, model in enumerate(models):
        timed = file["timings"] if file and model["same_layers"] else []
        others = [(file, timing) for timing in timed]
        others += [(models[0], models[0]["timing"])] if place else []
        found += [_gain(model, other, timing) for other, timing in others]
    return found


def _gain(model: dict, other: dict, timing: dict) -> dict:
    def ratio(key: str) -> float | None:
        before, now = other[key], model[key]
        return before / now if before and now else None

    # Another engine's memory was not measured.
    memory = ratio("memory_mb") if timing["engine"] in ("rt3d", "ONNX Runtime") else None
    return {
        "model": model["name"],
        "against": other["name"] if timing["engine"] == "rt3d" else timing["engine"],
        "ms": model["timing"]["p50_ms"],
        "ms_before": timing["p50_ms"],
        "times": timing["p50_ms"] / model["timing"]["p50_ms"],
        "times_smaller": ratio("bytes"),
        "times_less_memory": memory,
        "accuracy_before": other["accuracy"],
        "accuracy": model["accuracy"],
    }
