"""The wheel has all that the package needs, and works where nothing else of this tree is."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from rt3d_tvm.data.generate import make_clip
from rt3d_tvm.package.version import __version__

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


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory) -> Path:
    """The folder of programs of a new environment, which has the wheel and nothing of this tree.

    Of what the wheel depends on it sees what is installed here, which a path in a .pth file gives.
    Files of that kind there, which bring this tree in, are not read by Python.
    """
    folder = tmp_path_factory.mktemp("clean") / "env"
    venv.create(folder, with_pip=False)
    programs = folder / "bin"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet"]
    more = ["--no-deps", "--no-index", "--ignore-installed", wheel]
    done = subprocess.run([*command, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return programs


def in_environment(programs, command, folder):
    """Run a command of an environment in a folder; nothing of this process leads it elsewhere."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONNOUSERSITE": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_the_program_and_the_package_of_a_clean_environment_are_the_wheels(clean, tmp_path):
    said = in_environment(clean, [clean / "rt3d", "--version"], tmp_path)
    assert said.stdout.strip() == f"rt3d {__version__}", said.stderr
    for module in ("rt3d_tvm", "topi_sparse", "schedules"):
        program = f"import {module}; print({module}.__path__[0])"
        found = in_environment(clean, [clean / "python", "-c", program], tmp_path)
        assert Path(found.stdout.strip()).is_relative_to(clean.parent), found.stderr


@pytest.mark.full
def test_the_readmes_first_steps_run_in_a_clean_environment(clean, tmp_path):
    """As printed: the Python, then each line for the shell but that of a phone at the port."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    python = text.partition("## First steps in Python")[2].partition("```python\n")[2]
    done = in_environment(clean, [clean / "python", "-c", python.partition("```")[0]], tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "artifact" / "model.so").is_file()
    section = text.partition("## First steps on the command line")[2].partition("\n## ")[0]
    lines = re.findall(r"^    (rt3d .*)$", section.replace("\\\n", ""), re.M)
    assert [line.split()[1] for line in lines].count("bench") == 2
    make_clip(tmp_path / "video.mp4", frames=20, size=128)
    for line in lines:
        if line.endswith("--adb"):
            continue
        done = in_environment(clean, ["sh", "-c", line.partition("  #")[0]], tmp_path)
        assert done.returncode == 0, (line, done.stderr)


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
