"""Trackers and devices on this machine, as the commands of `rt3d` start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from rt3d_tvm.devices.tracker import wait_for_device

ROOT = Path(__file__).parents[1]


@contextmanager
def running(
    *arguments: str, environment: Mapping[str, str] = os.environ
) -> Iterator[tuple[str, int]]:
    """An `rt3d` command that listens, until the block ends; the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rt3d_tvm.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env={**environment, "TVM_USE_RUNTIME_LIB": "1"},
    )
    try:
        host, port = process.stdout.readline().split()[-1].split(":")
        yield host, int(port)
    finally:
        process.terminate()
        process.wait(timeout=60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def serving(
    tracker: tuple[str, int],
    key: str,
    port: int,
    *more: str,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[tuple[str, int]]:
    """This machine, registered with the tracker."""
    where = "{}:{}".format(*tracker)
    arguments = ("--tracker", where, "--key", key, "--port", str(port), *more)
    with running("rpc-server", *arguments, environment=environment) as address:
        until = time.monotonic() + 60
        while "{}:{}".format(*address) not in wait_for_device(tracker, key, wait_s=60).addresses:
            assert time.monotonic() < until
            time.sleep(0.2)
        yield address
