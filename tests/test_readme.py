"""The README's code runs as it stands, and what it shows of a file is that file."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from rt3d_tvm.cli import _parser
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.targets import make_target

ROOT = Path(__file__).parents[1]
README_PATH = ROOT / "README.md"
README = README_PATH.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def block(word: str) -> str:
    (found,) = [text for text in BLOCKS if word in text]
    return found


def test_the_python_api_in_twelve_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block("rt.prune("), names)
    assert names["y"].shape == (1, 32, 12, 28, 28)
    assert np.isfinite(names["y"]).all()
    kept = np.count_nonzero(names["model"][2].weight.detach().numpy())
    assert kept < 0.5 * names["model"][2].weight.numel()


def test_the_pass_in_a_pipeline_of_ones_own(compiled_c3d, capsys):
    names: dict = {}
    exec(block("compile_with_kgs"), names)
    executable = names["compile_with_kgs"](import_onnx(compiled_c3d.onnx), make_target("host"))
    assert capsys.readouterr().out.split() == ["kgs_conv3d"] * 8
    vm = relax.VirtualMachine(executable, tvm.cpu())
    clip = np.zeros(compiled_c3d.manifest["inputs"][0]["shape"], "float32")
    assert np.isfinite(vm["main"](tvm.runtime.tensor(clip)).numpy()).all()


def test_the_loader_shown_is_the_loader_that_is_tested():
    script = (ROOT / "examples" / "run_plain.py").read_text(encoding="utf-8")
    deploy = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    shown = re.findall(r"```python\n(.*?)```", deploy, re.S)
    assert shown
    assert all(text in script for text in shown)


def documents() -> list[Path]:
    return [README_PATH, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_the_commands_shown_are_commands(path):
    text = path.read_text(encoding="utf-8").replace("\\\n", "")
    for command in re.findall(r"^    rt3d ([^─\n]*)$", text, re.M):
        _parser().parse_args(shlex.split(command, comments=True))


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_the_links_shown_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), target


def test_the_files_shown_are_there():
    listing = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = re.findall(r"^    ([\w/.]+/|[\w/]+\.py)\s", listing, re.M)
    assert len(shown) > 15
    for name in shown:
        assert (ROOT / name).exists(), name
