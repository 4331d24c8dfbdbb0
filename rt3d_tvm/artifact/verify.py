"""Does an artifact compute what ONNX Runtime does? And are its files the ones that were written?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rt3d_tvm.arguments import as_path
from rt3d_tvm.artifact.batches import parts_of
from rt3d_tvm.artifact.description import batches
from rt3d_tvm.artifact.format import ArtifactFiles
from rt3d_tvm.artifact.opencl.artifact import load_here
from rt3d_tvm.artifact.tensors import Runs, arrays, given, noise
from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.numerics.distance import relative_distance
from rt3d_tvm.precision import PRECISIONS, QUANTIZED


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Largest |y - ref| over the largest |ref|, of all inputs; and how far inputs move the output.

    sensitivity: the largest difference between the references of two inputs, over the largest
    |ref|. Where it is small, a small error proves little. limit: the largest error that passes.
    not_finite: values, of all inputs, that are NaN or infinite where ONNX Runtime's are numbers.
    Where there is one, max_rel_error is the largest float.
    """

    inputs: int
    max_rel_error: float
    not_finite: int
    sensitivity: float | None
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit."""
        return self.max_rel_error <= self.limit


def verify(
    folder: Path,
    onnx_path: Path,
    *,
    inputs: int = 2,
    seed: int = 0,
    limit: float | None = None,
    device: str | None = None,
    clips: np.ndarray | None = None,
    artifact: Runs | None = None,
) -> Verification:
    """Run the artifact and ONNX Runtime on the same seeded standard normal inputs.

    ``clips``: instead of them, such as `rt3d_tvm.data.clips.read_clips` makes of a video.
    ``limit``: the largest error that passes; by default what the artifact's precision allows.
    ``device``: a part of the name of the OpenCL device to run an artifact for OpenCL on.
    ``artifact``: what ``folder`` holds, loaded elsewhere: on a device behind a tracker.
    InputError for an artifact whose files do not have the checksums of its manifest, and for an
    ONNX file that ONNX Runtime does not load, whose inputs or outputs are others, or that gives
    NaN. Of several outputs the one that is farthest off counts. Of several batches each has so many
    inputs.
    """
    onnx_path = as_path(onnx_path, "onnx_path")
    files = ArtifactFiles.open(folder)
    files.check_sha256()
    artifact = artifact or load_here(folder, device=device)
    precision = files.manifest.get("precision", asdict(PRECISIONS["fp32"]))
    # As it is written, a quantised graph is computed in float32; optimised, on integers.
    optimised = precision["name"] == QUANTIZED.name
    reference = reference_session(onnx_path, optimised=optimised)
    rng = np.random.default_rng(seed)
    errors, moved, not_finite = [], [], 0
    for part in parts_of(artifact.manifest):
        _check_inputs(part, reference, onnx_path)
        drawn = (noise(part, rng) for _ in range(inputs))
        references: list[list[np.ndarray]] = []
        for x in drawn if clips is None else batches(clips, part):
            names = [each.name for each in reference.get_inputs()]
            refs = reference.run(None, dict(zip(names, given(part, x), strict=True)))
            results = arrays(artifact.run(x))
            _check_results(refs, results, onnx_path)
            errors.append(max(map(relative_distance, results, refs)))
            not_finite += sum(map(_not_finite, results, refs))
            references.append(refs)
        moved += [max(map(relative_distance, references[0], refs)) for refs in references[1:]]
    return Verification(
        inputs=len(errors),
        limit=precision["max_rel_error"] if limit is None else limit,
        max_rel_error=max(errors),
        not_finite=not_finite,
        sensitivity=max(moved, default=None),
    )


def _not_finite(y: np.ndarray, ref: np.ndarray) -> int:
    return int(np.count_nonzero(~np.isfinite(y) & np.isfinite(ref)))


def _check_inputs(manifest: dict, reference, onnx_path: Path) -> None:
    """InputError where ONNX Runtime takes another number, type or shape than the artifact."""
    kinds = [each.type for each in reference.get_inputs()]
    taken = list(zip(kinds, input_shapes(reference, manifest), strict=True))
    expected = [("tensor(float)", each["shape"]) for each in manifest["inputs"]]
    if taken != expected:
        raise InputError(
            f"{onnx_path} takes {_listed(taken)}, the artifact {_listed(expected)}: they are not "
            "of one model"
        )


def input_shapes(session, manifest: dict) -> list[list[int]]:
    """The shapes that a session takes; an axis that it leaves open has the artifact's size."""
    shapes = [list(each.shape) for each in session.get_inputs()]
    for shape, entry in zip(shapes, manifest["inputs"], strict=False):
        for axis, size in enumerate(entry["shape"][: len(shape)]):
            if not isinstance(shape[axis], int):
                shape[axis] = size
    return shapes


def _listed(tensors: list[tuple[str, list[int]]]) -> str:
    return " and ".join(f"{kind} of shape {shape}" for kind, shape in tensors)


def _check_results(refs: list[np.ndarray], results: list[np.ndarray], onnx_path: Path) -> None:
    """InputError for results of other shapes, and for references that are not numbers."""
    shapes = [[each.shape for each in found] for found in (refs, results)]
    if shapes[0] != shapes[1]:
        theirs, ours = (" and ".join(map(str, found)) for found in shapes)
        raise InputError(
            f"{onnx_path} gives {theirs}, the artifact {ours}: they are not of one model"
        )
    nans, count = sum(int(np.isnan(ref).sum()) for ref in refs), sum(ref.size for ref in refs)
    if nans:
        raise InputError(
            f"{onnx_path}: {nans} of the {count} values that ONNX Runtime gives are NaN: there is "
            "nothing to compare with"
        )


def reference_session(onnx_path: Path, *, threads: int | None = None, optimised: bool = True):
    """ONNX Runtime on the CPU for a model file; InputError where it cannot load it.

    ``optimised``: whether it may change the graph, as it does by default. Some of what it makes of
    pools in ceil mode has another shape than ONNX's rule and than the graph as it is written.
    """
    from onnxruntime.capi.onnxruntime_pybind11_state import (
        Fail,
        InvalidArgument,
        InvalidGraph,
        InvalidProtobuf,
        NoSuchFile,
    )
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

    given = {"threads": threads, "optimised": optimised}
    try:
        try:
            # Without VNNI its kernels of uint8 by int8 saturate; so it makes weights uint8.
            return _session(onnx_path, **given, exact=True)
        except NoKernel:
            # It has none of int8 by uint8: activations are int8, of which no product saturates.
            return _session(onnx_path, **given, exact=False)
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile, NoKernel) as error:
        raise InputError(f"{onnx_path}: ONNX Runtime cannot load it: {words_of(error)}") from error


def _session(onnx_path: Path, *, threads: int | None, optimised: bool, exact: bool):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
