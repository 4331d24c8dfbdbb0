"""A process that may crash or hang: its value, its death, its deadline, and how it starts."""

import os
import sys
import time

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
