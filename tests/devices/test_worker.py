"""A process that may crash or hang: its value, its death, its deadline, and how it starts."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rt3d_tvm.devices.worker import Worker

# Of which its start takes most, on a busy machine.
DEADLINE_S = 120.0


@pytest.fixture
def worker():
    started = Worker()
    yield started
    started.kill()


def test_it_starts_without_torch(worker):
    worker.start(lambda: (sys.modules["torch"], "tvm" in sys.modules), deadline_s=DEADLINE_S)
    assert worker.result() == (None, True)


def test_it_survives_what_its_process_does_not(worker):
    worker.start(lambda: os._exit(3), deadline_s=DEADLINE_S)
    with pytest.raises(ChildProcessError):
        worker.result()
    worker.start(os.getpid, deadline_s=DEADLINE_S)
    first = worker.result()
    worker.start(time.sleep, 1000, deadline_s=0.5)
    with pytest.raises(TimeoutError):
        worker.result()
    worker.start(os.getpid, deadline_s=DEADLINE_S)
    assert worker.result() != first


def test_what_it_leaves_among_the_temporary_files_goes_with_it(worker, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    worker.start(tempfile.mkdtemp, deadline_s=DEADLINE_S)
    left = Path(worker.result())
    assert left.is_dir()
    assert tmp_path in left.parents
    worker.kill()
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_by_a_killed_owner_goes_with_the_next_worker(worker, tmp_path, monkeypatch):
    owner = subprocess.run(
        [sys.executable, "-c", ORPHANED],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert owner.returncode == -signal.SIGKILL
    (orphan,) = tmp_path.iterdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    worker.start(os.getpid, deadline_s=DEADLINE_S)
    worker.result()
    assert not orphan.exists()


ORPHANED = """
import os, signal, tempfile
from rt3d_tvm.devices.worker import Worker
worker = Worker()
worker.start(tempfile.mkdtemp, deadline_s=120)
worker.result()
os.kill(os.getpid(), signal.SIGKILL)
"""
