"""A small model, taken through the commands once."""

import pytest

from rt3d_tvm import cli
from rt3d_tvm.data.generate import make_clip

SMALL = ["--model", "c3d", "--width", "0.125", "--classes", "7", "--size", "32"]


@pytest.fixture(scope="session")
def flow(tmp_path_factory):
    """A small pruned C3D taken through the commands: its weights, ONNX file, artifact, a video."""
    folder = tmp_path_factory.mktemp("flow")
    weights, model, artifact = folder / "w.safetensors", folder / "m.onnx", folder / "artifact"
    prune = ["prune", *SMALL, "--rate", "2.5", "-o", weights, "--json", folder / "prune.json"]
    export = ["export", "--weights", weights, "-o", model, "--json", folder / "export.json"]
    for argv in (prune, export, ["compile", model, "-o", artifact]):
        assert cli.main([str(arg) for arg in argv]) == 0
    make_clip(folder / "v.mp4", frames=20, size=48)
    return folder
