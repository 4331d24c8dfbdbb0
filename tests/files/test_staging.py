"""Folders that outlast no process: removed at the end, or after a kill by the next one."""

import os
import subprocess
import sys
import tempfile

import pytest

from rt3d_tvm.files.staging import scratch_folder

PREFIX = "rt3d-test-"
HOLD = f"""
from rt3d_tvm.files.staging import scratch_folder
with scratch_folder("{PREFIX}") as folder:
    (folder / "kernel0.so").write_bytes(b"kernel")
    print(folder, flush=True)
    input()
"""


@pytest.fixture
def holder(tmp_path, monkeypatch):
    """A process that has a folder, and where that is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    yield process, tmp_path / process.stdout.readline().strip()
    process.kill()
    process.communicate()


def test_it_goes_with_the_block(holder, tmp_path):
    process, folder = holder
    assert folder.is_dir()
    process.communicate("\n")
    assert list(tmp_path.iterdir()) == []


def test_one_whose_process_was_killed_goes_with_the_next(holder, tmp_path):
    process, folder = holder
    process.kill()
    process.wait()
    assert (folder / "kernel0.so").is_file()
    with scratch_folder(PREFIX) as another:
        assert list(tmp_path.iterdir()) == [another]


def test_one_whose_process_lives_and_one_of_something_else_stay(holder, tmp_path):
    _, folder = holder
    foreign = tmp_path / f"{PREFIX}foreign"
    foreign.mkdir()
    with scratch_folder(PREFIX), scratch_folder(PREFIX):
        assert len(list(tmp_path.iterdir())) == 4
    assert {*tmp_path.iterdir()} == {folder, foreign}
    assert (folder / "kernel0.so").is_file()
