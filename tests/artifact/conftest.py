"""Reduced models compiled for OpenCL, each once."""

from pathlib import Path

import pytest

from rt3d_tvm.compile.build import compile_onnx


@pytest.fixture(scope="session")
def artifact_of(tmp_path_factory):
    """Compile a reduced model for an OpenCL target and a precision, once."""
    made: dict[tuple, Path] = {}

    def artifact(compiled, target: str, precision: str) -> Path:
        key = (compiled.name, target, precision)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("opencl") / "artifact"
            compile_onnx(compiled.onnx, made[key], target=target, precision=precision)
        return made[key]

    return artifact


@pytest.fixture
def adreno(artifact_of, compiled_c3d) -> Path:
    return artifact_of(compiled_c3d, "adreno", "fp16")
