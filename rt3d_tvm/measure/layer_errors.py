"""Which layer goes wrong first? Every kernel's result beside ONNX Runtime's of the same tensor.

A kernel computes a convolution and what follows it, so its result is one of the tensors between
that convolution and the next layers: the one that it is nearest to. A kernel that is right comes
within rounding of one of them; one that is wrong is near none.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm

from rt3d_tvm.arguments import as_path
from rt3d_tvm.artifact.batches import part_for
from rt3d_tvm.artifact.format import ArtifactFiles
from rt3d_tvm.artifact.load import Artifact, load
from rt3d_tvm.artifact.opencl.artifact import is_for_opencl
from rt3d_tvm.artifact.tensors import Tensors, given
from rt3d_tvm.compile.frontend import layer_nodes
from rt3d_tvm.errors import InputError
from rt3d_tvm.measure.reference_tensors import ReferenceGraph, ReferenceTensor, is_8_bit
from rt3d_tvm.precision import QUANTIZED


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """Of one kernel: its layers, and how far its result is from ONNX Runtime's.

    tensor: the one of the ONNX file that it was compared with. max_rel_error: the largest
    difference over that tensor's largest value. Both are None where no tensor has its form:
    ``reason`` says so.
    """

    layers: tuple[str, ...]
    function: str
    tensor: str | None
    max_rel_error: float | None
    passed: bool
    reason: str | None = None


def layer_errors(
    folder: Path, onnx_path: Path, x: Tensors, *, limit: float | None = None
) -> list[LayerError]:
    """Compare every layer's kernel on one input, in the order that they run.

    ``limit``: the largest error that passes; by default what the artifact's precision allows.
    InputError for an artifact of OpenCL, and for a file that is not of the artifact's model.
    """
    folder, onnx_path = as_path(folder, "folder"), as_path(onnx_path, "onnx_path")
    files = ArtifactFiles.open(folder)
    if (reason := why_not(files.manifest)) is not None:
        raise InputError(f"{folder}: --layers compares tensors here; {reason}")
    limit = files.manifest["precision"]["max_rel_error"] if limit is None else limit
    artifact = load(folder)
    outputs = {name: node.output for name, node in layer_nodes(onnx_path).items()}
    part = part_for(artifact.manifest, x)
    if unknown := [e["name"] for e in part["layers"] if e["name"] not in outputs]:
        raise InputError(f"{onnx_path}: has no layer {unknown[0]}: it is not of the model {folder}")
    graph, layers = ReferenceGraph(onnx_path), set(outputs.values())
    results = [
        (call, result, graph.behind(outputs[call["layers"][-1]], layers))
        for call, result in zip(part["calls"], _results(artifact, x), strict=True)
        if call["layers"]
    ]
    quantised = files.manifest["precision"]["name"] == QUANTIZED.name
    names = dict.fromkeys(
        name
        for _, result, near in results
        for name in near
        if graph.of_8_bits(name) == is_8_bit(result.dtype)
    )
    values = graph.computed(names, given(part, x), optimised=quantised)
    return [
        _error(call, _compared(result, {n: values[n] for n in near if n in values}), limit)
        for call, result, near in results
    ]


def first_wrong(errors: Sequence[LayerError]) -> str | None:
    """Which kernel is the first that does not pass, and after which one; None where all do."""
    for index, error in enumerate(errors):
        if not error.passed:
            name = " + ".join(error.layers)
            if not index:
                return f"{name}, the first of all"
            before = " + ".join(errors[index - 1].layers)
            return f"{name}, or what lies between {before} and it"
    return None


def why_not(manifest: dict) -> str | None:
    """Why an artifact's layers cannot be compared one by one; None where they can."""
    return "on an OpenCL device they stay there" if is_for_opencl(manifest) else None


def _error(call: dict, compared: tuple[str, float] | None, limit: float) -> LayerError:
    about = {"layers": tuple(call["layers"]), "function": call["function"]}
    if compared is None:
        reason = "no tensor of the file has the form of its result"
        return LayerError(**about, tensor=None, max_rel_error=None, passed=True, reason=reason)
    tensor, error = compared
    # What `relative_distance` says of a result that is NaN or infinite.
    number = error if error < sys.float_info.max else None
    return LayerError(
        **about,
        tensor=tensor,
        max_rel_error=number,
        passed=error <= limit,
        reason=None if number is not None else "its result is NaN or infinite",
    )


def _results(artifact: Artifact, x: Tensors) -> list[np.ndarray]:
    """What each call of the artifact writes: its last argument."""
    results: list[np.ndarray] = []

    def instrument(_function, name: str, before_run: bool, _result, *arguments) -> None:
        if not before_run and not name.startswith("vm.builtin."):
            tensors = [each for each in arguments if isinstance(each, tvm.runtime.Tensor)]
            results.append(tensors[-1].numpy())

    artifact.vm.set_instrument(instrument)
    artifact.run(x)
    return results


def _compared(
    result: np.ndarray, tensors: Mapping[str, ReferenceTensor]
) -> tuple[str, float] | None:
    """The tensor that a kernel's result is nearest to, and the distance; None without any."""
    distances = [
        (tensor.distance(unpacked.reshape(tensor.value.shape)), name)
        for name, tensor in tensors.items()
        if tensor.like(result) and (unpacked := _unpacked(result, tensor.value.shape)) is not None
    ]
    if not distances:
        return None
    distance, name = min(distances)
    return name, distance


def _unpacked(result: np.ndarray, shape: Sequence[int]) -> np.ndarray | None:
    """A kernel's result as a volume (N, C, D, H, W) of that shape; None where it is no such one."""
    n, c, d, h, w = _volume_shape(shape)
    if result.ndim != 6:
        return result.reshape(n, c, d, h, w) if result.size == n * c * d * h * w else None
    batch, blocks, depth, high, wide, lanes = result.shape
    rows, columns = high - h, wide - w
    fits = (batch, depth) == (n, d) and blocks == -(-c // lanes)
    if not fits or min(rows, columns) < 0 or rows % 2 or columns % 2:
        return None
    inner = result[:, :, :, rows // 2 : rows // 2 + h, columns // 2 : columns // 2 + w]
    return np.moveaxis(inner, 5, 2).reshape(n, blocks * lanes, d, h, w)[:, :c]


def _volume_shape(shape: Sequence[int]) -> tuple[int, int, int, int, int]:
    """Clips, channels and three axes of positions; those that are not there are of size 1."""
    n, c, *positions = (*shape, 1, 1)[: max(len(shape), 2)]
    d, h, w = (1, 1, 1, *positions)[-3:]
    return n, c, d, h, w
