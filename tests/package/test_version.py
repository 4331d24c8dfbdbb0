"""The version stands in one place: setup.py, the package and `rt3d --version` say the same."""

import subprocess
import sys
from pathlib import Path

import pytest

import rt3d_tvm
from rt3d_tvm import cli

ROOT = Path(__file__).parents[2]


def test_setup_has_the_version_of_the_package():
    command = [sys.executable, "setup.py", "--version"]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert child.stdout.split()[-1] == rt3d_tvm.__version__


def test_the_changelog_begins_with_the_version():
    headings = [
        line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line[:3] == "## "
    ]
    assert headings[0].split()[1].rstrip(",") == rt3d_tvm.__version__


def test_the_command_says_its_version(capsys):
    with pytest.raises(SystemExit) as exited:
        cli.main(["--version"])
    assert exited.value.code == 0
    assert capsys.readouterr().out == f"rt3d {rt3d_tvm.__version__}\n"


def test_the_package_imports_without_what_it_needs():
    program = """
import sys
import rt3d_tvm
assert rt3d_tvm.__version__
assert not {"torch", "tvm", "onnx", "numpy", "rich"} & set(sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
