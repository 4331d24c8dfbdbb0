"""The page Start, from its files to its last command, as a newcomer types them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "index.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.S)
COMMANDS = re.findall(r"^    (rt3d .*)$", PAGE.replace("\\\n", ""), re.M)


def shell(command: str, folder: Path) -> subprocess.CompletedProcess:
    """A command line, with this environment's rt3d."""
    rt3d = f"{sys.executable} -m rt3d_tvm.cli"
    line = re.sub(r"^rt3d", rt3d, command)
    return subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("start")
    (made / "nets.py").write_text(CODE[0], encoding="utf-8")
    return made


def test_every_command_does_what_the_page_says(folder):
    assert [line.split()[1] for line in COMMANDS] == [
        *("doctor", "data", "train", "prune", "export", "compile", "verify", "run")
    ]
    for command in COMMANDS[1:]:  # what doctor finds is this machine's
        done = shell(command, folder)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    videos = len(list((folder / "videos" / "test").glob("*/*.mp4")))
    assert videos and done.stdout.count(".mp4") >= videos


def test_the_python_is_as_short_as_it_looks(folder):
    assert CODE[1].count("\n") <= 12
    done = subprocess.run([sys.executable, "-c", CODE[1]], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr
