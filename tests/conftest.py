"""Models at a size that compiles in seconds, each exported and compiled once a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from rt3d_tvm.build import compile_onnx
from rt3d_tvm.export import export_onnx
from rt3d_tvm.prune.benchmark import benchmark_pair
from topi_sparse.kernel_group import KernelGroup

# Width, frames and size of the reduced models: odd channel counts, every operator of the full ones.
REDUCED = {"c3d": (0.125, 16, 32), "r2plus1d": (0.25, 8, 32), "s3d": (0.25, 16, 64)}
GROUP = KernelGroup(g_m=8, g_n=4)


@dataclass(frozen=True)
class Compiled:
    """A reduced model, pruned to the paper's rate: its ONNX file, its artifact, the manifest."""

    name: str
    onnx: Path
    folder: Path
    manifest: dict


@pytest.fixture(scope="session", params=list(REDUCED))
def compiled(request, tmp_path_factory) -> Compiled:
    """Each of the three models."""
    return _compiled(request.param, tmp_path_factory)


@pytest.fixture(scope="session")
def compiled_c3d(tmp_path_factory) -> Compiled:
    """The reduced C3D."""
    return _compiled("c3d", tmp_path_factory)


_made: dict[str, Compiled] = {}


def _compiled(name: str, tmp_path_factory) -> Compiled:
    if name not in _made:
        width, frames, size = REDUCED[name]
        pair = benchmark_pair(
            name, group=GROUP, num_classes=10, width=width, frames=frames, size=size
        )
        folder = tmp_path_factory.mktemp(name)
        export_onnx(pair.pruned, pair.input_shape, folder / "model.onnx")
        manifest = compile_onnx(folder / "model.onnx", folder / "artifact")
        _made[name] = Compiled(name, folder / "model.onnx", folder / "artifact", manifest)
    return _made[name]
