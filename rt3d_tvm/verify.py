"""Does an artifact compute what ONNX Runtime does? And are its files the ones that were written?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rt3d_tvm.deploy import MANIFEST, file_sha256, load
from rt3d_tvm.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Largest |y - ref| over the largest |ref|, of all inputs; and how far inputs move the output.

    sensitivity: the largest difference between the references of two inputs, over the largest
    |ref|. Where it is small, a small error proves little.
    """

    inputs: int
    max_rel_error: float
    sensitivity: float | None


def verify(folder: Path, onnx_path: Path, *, inputs: int = 2, seed: int = 0) -> Verification:
    """Run the artifact and ONNX Runtime on the same seeded standard normal inputs.

    InputError for an artifact whose files do not have the checksums of its manifest, and for an
    ONNX file that ONNX Runtime does not load or whose input or output is another.
    """
    artifact = load(folder)
    for name, expected in artifact.manifest["sha256"].items():
        if file_sha256(Path(folder) / name) != expected:
            raise InputError(f"{Path(folder) / name}: not the file that {MANIFEST} describes")
    reference = reference_session(onnx_path)
    expected_input = artifact.manifest["inputs"][0]
    session_input = reference.get_inputs()[0]
    if session_input.shape != expected_input["shape"]:
        raise InputError(
            f"{onnx_path} takes {tuple(session_input.shape)}, the artifact "
            f"{tuple(expected_input['shape'])}: they are not of one model"
        )
    rng = np.random.default_rng(seed)
    errors, references = [], []
    for _ in range(inputs):
        x = rng.standard_normal(expected_input["shape"], dtype="float32")
        ref, y = reference.run(None, {session_input.name: x})[0], artifact.run(x)
        if ref.shape != y.shape:
            raise InputError(
                f"{onnx_path} gives {ref.shape}, the artifact {y.shape}: they are not of one model"
            )
        errors.append(float(np.max(abs(y - ref)) / np.max(abs(ref))))
        references.append(ref)
    moved = [np.max(abs(ref - references[0])) / np.max(abs(ref)) for ref in references[1:]]
    # A NaN is an infinite error: max() would pass over it.
    worst = max(error if np.isfinite(error) else float("inf") for error in errors)
    return Verification(
        inputs=inputs,
        max_rel_error=worst,
        sensitivity=float(max(moved)) if moved else None,
    )


def reference_session(onnx_path: Path, *, threads: int | None = None):
    """ONNX Runtime on the CPU for a model file; InputError where it cannot load it."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import (
        Fail,
        InvalidArgument,
        InvalidGraph,
        InvalidProtobuf,
        NoSuchFile,
    )

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(
            str(onnx_path), options, providers=["CPUExecutionProvider"]
        )
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
        raise InputError(f"{onnx_path}: ONNX Runtime cannot load it: {error}") from error
