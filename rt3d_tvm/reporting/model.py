"""What a report says of one model: read from its manifest, compared, timed kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from rt3d_tvm.artifact.description import description_of
from rt3d_tvm.artifact.format import MODEL, WEIGHTS
from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.frontend import LayerNode
from rt3d_tvm.measure.bench import CallTiming, bench_layers
from rt3d_tvm.measure.layer_errors import layer_errors, why_not
from rt3d_tvm.measure.record import about
from rt3d_tvm.measure.timing import Timing
from rt3d_tvm.reporting.accuracy import accuracy
from rt3d_tvm.reporting.artifacts import Opened, Settings
from rt3d_tvm.reporting.memory import memory_mb
from rt3d_tvm.reporting.picture import kept_shares, picture

# Densities that differ by more are of two prunings.
_SAME_DENSITY = 0.02


def model_of(
    settings: Settings,
    one: Opened,
    timings: Mapping[int, Timing],
    nodes: Mapping[str, LayerNode],
    *,
    threads: int,
    progress: Callable[[str], None],
) -> dict:
    """A model as the report's JSON has it; ``timings`` are those of its batches."""
    folder, manifest = one.folder, one.manifest
    layers = manifest["layers"]
    why = None if settings.onnx is None else other_model(layers, nodes)
    fits = settings.onnx is not None and why is None
    if fits:
        progress(f"{folder}: compare with ONNX Runtime")
        why = why_not(manifest)
    dense, kept = (sum(layer[key] for layer in layers) for key in ("dense_macs", "kept_macs"))
    measured = description_of(manifest, folder).pruning_accuracy
    return {
        "name": one.name,
        "artifact": about(folder, manifest),
        "bytes": sum((folder / name).stat().st_size for name in (MODEL, WEIGHTS)),
        "memory_mb": memory_mb(folder, threads),
        "dense_macs": dense,
        "kept_macs": kept,
        "pruning_rate": dense / max(kept, 1),
        "accuracy": _accuracy(one, threads, progress),
        "pruning_accuracy": None if measured is None else asdict(measured),
        "verification": _verification(settings, one) if fits else None,
        "same_layers": all(layer["name"] in nodes for layer in layers),
        "why_no_errors": why,
        "layout_changes": manifest["layout_changes"],
        "not_packed": manifest["not_packed"],
        "batches": [
            _batch(settings, one, batch, timings[batch], nodes if fits else {}, threads, progress)
            for batch in one.parts
        ],
    }


def _accuracy(one: Opened, threads: int, progress: Callable[[str], None]) -> float | None:
    if one.videos is None:
        return None
    progress(f"{one.folder}: accuracy on {len(one.videos)} videos")
    return accuracy(load(one.folder, threads=threads).run, one.manifest, one.videos)


def _verification(settings: Settings, one: Opened) -> dict[str, Any]:
    """The whole model beside ONNX Runtime, in each of its batches."""
    whole = verify(one.folder, settings.onnx, inputs=1, seed=settings.seed)
    error = None if whole.not_finite else whole.max_rel_error
    return {"max_rel_error": error, "limit": whole.limit, "passed": whole.passed}


def _batch(
    settings: Settings,
    one: Opened,
    batch: int,
    timing: Timing,
    nodes: Mapping[str, LayerNode],
    threads: int,
    progress: Callable[[str], None],
) -> dict:
    """One batch, kernel by kernel; ``nodes``: of the file that its layers are compared with."""
    several = f", batch {batch}" if len(one.parts) > 1 else ""
    progress(f"{one.folder}{several}: layer by layer")
    x, layers = one.inputs[batch], one.parts[batch]["layers"]
    calls = bench_layers(one.folder, x, threads=threads, runs=settings.runs)
    errors: dict[tuple[str, ...], float | None] = {}
    if settings.onnx is not None and nodes and why_not(one.manifest) is None:
        found = layer_errors(one.folder, settings.onnx, x)
        errors = {each.layers: each.max_rel_error for each in found}
    # What is kept is the same in every batch.
    pictured = batch == next(iter(one.parts))
    return {
        "batch": batch,
        "timing": asdict(timing),
        "ms_per_clip": timing.p50_ms / batch,
        "calls": [_call(call, layers, nodes, errors, pictured=pictured) for call in calls],
        "timeline": timeline(calls),
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


def _call(
    timing: CallTiming,
    layers: Sequence[dict],
    nodes: Mapping[str, LayerNode],
    errors: Mapping[tuple[str, ...], float | None],
    *,
    pictured: bool,
) -> dict:
    by_name = {layer["name"]: layer for layer in layers}
    return {
        "function": timing.function,
        "layers": [
            _layer(by_name[name], nodes.get(name), pictured=pictured) for name in timing.layers
        ],
        "ms": timing.ms,
        "share": timing.share,
        "density": timing.density,
        "gflops": timing.gflops,
        "peak_share": timing.peak_share,
        "is_implausible": timing.is_implausible,
        "max_rel_error": errors.get(timing.layers),
    }


def _layer(layer: dict, node: LayerNode | None, *, pictured: bool) -> dict:
    """What the manifest says of a layer, and the picture of what is kept."""
    keys = ("name", "weight", "out", "density", "dense_macs", "kept_macs", "kernel", "group")
    said = {key: layer[key] for key in (*keys, "dtype", "tuned", "reason", "float32_reason")}
    image = None
    if pictured and node is not None and node.weight is not None and layer["group"]:
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
