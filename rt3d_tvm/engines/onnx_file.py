"""The engines that run an ONNX file beside compiled models, each by the name that users give it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rt3d_tvm.artifact.tensors import Tensors
from rt3d_tvm.engines.engine import Engine, onnxruntime_engine, openvino_engine, session_of
from rt3d_tvm.errors import InputError


def onnx_engines(
    path: Path,
    names: Sequence[str],
    manifests: Sequence[dict],
    inputs: Sequence[Tensors],
    *,
    left_out: list[str] | None = None,
) -> list[Engine]:
    """The engines of those names on a file, with the input of the first artifact that fits it.

    InputError for a file that no artifact fits. An engine that knows an operator not raises one as
    well, or where there is a list ``left_out`` has its reason put there.
    """
    refusals = []
    for manifest, x in zip(manifests, inputs, strict=True):
        if (reason := refusal(path, manifest)) is None:
            return engines_of(path, names, manifest, x, left_out=left_out)
        refusals.append(reason)
    raise refusals[0]


def refusal(path: Path, manifest: dict) -> InputError | None:
    """Why a file does not take what an artifact takes; None where it does."""
    try:
        session_of(path, manifest, 1)
    except InputError as error:
        return error
    return None


def engines_of(
    path: Path,
    names: Sequence[str],
    manifest: dict,
    x: Tensors,
    *,
    left_out: list[str] | None = None,
) -> list[Engine]:
    """As `onnx_engines`, with the input of one artifact, which the file takes."""
    engines = []
    for name in names:
        try:
            engines.append(_engine(name, path, manifest, x))
        except InputError as error:
            if left_out is None or name == "onnxruntime":
                raise
            left_out.append(f"{name} is left out: {error}")
    return engines


def _engine(name: str, path: Path, manifest: dict, x: Tensors) -> Engine:
    if name == "onnxruntime":
        return onnxruntime_engine(path, manifest, x)
    if name == "openvino":
        return openvino_engine(path, x)
    from rt3d_tvm.engines.torch_module import onnx_file_engine

    return onnx_file_engine(path, x)
