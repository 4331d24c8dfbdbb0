"""The wheel has all that the package needs, and works where nothing else of this tree is."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What is no Python: a kind of file, and where it lies.
DATA = {
    "rt3d_tvm/py.typed",
    "rt3d_tvm/measure/schemas/bench.json",
    "rt3d_tvm/reporting/schemas/report.json",
    *(f"rt3d_tvm/reporting/templates/report.{kind}" for kind in ("html", "css", "js")),
}
STEPS = """
import torch
import rt3d_tvm as rt
import rt3d_tvm.files.staging, schedules, topi_sparse
assert rt.__file__.startswith({target!r}), rt.__file__
clip = torch.randn(1, 3, 4, 12, 12)
model = torch.nn.Sequential(torch.nn.Conv3d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv3d(16, 8, 1))
rt.prune(model, rate=2.0, group="8x4", example_inputs=clip)
rt.export(model.eval(), "m.onnx", example_inputs=clip)
rt.compile("m.onnx", "artifact")
assert rt.verify("artifact", "m.onnx").passed
rt.report("artifact", "report.html", onnx="m.onnx", runs=1)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    # A build leaves folders beside the sources: beside links they are not in this tree.
    for name in ("rt3d_tvm", "topi_sparse", "schedules", "setup.py", "pyproject.toml", "README.md"):
        (source / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--quiet", "--wheel-dir", folder, source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_has_every_module_and_data_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names >= DATA
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rt3d_tvm").rglob("*.py")}
    assert names >= modules
    shipped = (ROOT / "rt3d_tvm/compile/choices/shipped").rglob("*.jsonl")
    runtime = [path for path in (ROOT / "rt3d_tvm/bundle/c").iterdir() if path.is_file()]
    assert names >= {path.relative_to(ROOT).as_posix() for path in (*shipped, *runtime)}
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)


@pytest.mark.full
def test_the_first_steps_run_from_the_wheel(wheel, tmp_path):
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    env = {**os.environ, "PYTHONPATH": str(target)}
    for command in (["-c", STEPS.format(target=str(target))], ["-m", "rt3d_tvm", "--version"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("rt3d ")
    assert (tmp_path / "report.html").stat().st_size > 10_000
