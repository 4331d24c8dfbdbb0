"""Models at a size that compiles in seconds, each exported and compiled once a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from rt3d_tvm.build import compile_onnx
from rt3d_tvm.export import export_onnx
from rt3d_tvm.models import MODELS, build_model
from rt3d_tvm.models.seeded import calibrate_, seeded_
from rt3d_tvm.prune.project import project_
from rt3d_tvm.prune.schemes import Scheme
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
        shape = (1, 3, frames, size, size)
        model = build_model(name, 10, width, frames=frames, size=size)
        seeded_(model, seed=0, group=GROUP, input_shape=shape)
        spec = MODELS[name]
        project_(
            model,
            scheme=Scheme(name="kgs", group=GROUP),
            rate=spec.paper_rate,
            input_shape=shape,
            ignore=spec.classifiers,
        )
        calibrate_(model, seed=0, input_shape=shape)
        folder = tmp_path_factory.mktemp(name)
        export_onnx(model, shape, folder / "model.onnx")
        manifest = compile_onnx(folder / "model.onnx", folder / "artifact")
        _made[name] = Compiled(name, folder / "model.onnx", folder / "artifact", manifest)
    return _made[name]
