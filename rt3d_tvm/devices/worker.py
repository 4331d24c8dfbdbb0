"""A process of its own for what may crash or hang, ended at a deadline of this side's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvm.support.popen_pool import PopenWorker

from rt3d_tvm.files.staging import scratch_folder

# Seconds until the process is killed that should have ended a call by itself: it cannot while
# native code holds its interpreter.
_GRACE_S = 2.0
# TVM imports torch where it is installed, which is most of the time that a process takes to start.
# Nothing that runs in one of these uses it.
_START = "import sys; sys.modules['torch'] = None; from tvm.exec.popen_worker import main; main()"


class _Process(PopenWorker):
    """TVM's worker, started without torch; its temporary files go to ``folder``."""

    _proc: subprocess.Popen | None
    folder: Path | None = None

    def _start(self) -> None:
        if self._proc is not None:
            return
        (here_in, there_out), (there_in, here_out) = os.pipe(), os.pipe()
        self._proc = subprocess.Popen(
            [sys.executable, "-c", _START, str(there_in), str(there_out)],
            pass_fds=(there_in, there_out),
            env={**os.environ, "TMPDIR": str(self.folder)},
            stdout=self._stdout,
            stderr=self._stderr,
        )
        os.close(there_in)
        os.close(there_out)
        self._reader, self._writer = os.fdopen(here_in, "rb"), os.fdopen(here_out, "wb")


class Worker:
    """Runs one function at a time, by `start` and `result`; a process starts with the first.

    What the process leaves in its temporary folder when it is killed goes with `kill`, or with the
    next worker of whichever process where this one is killed too.
    """

    def __init__(self) -> None:
        # What TVM prints when a kernel crashes is no news to who reads this side's output.
        self._process = _Process(stderr=subprocess.DEVNULL)
        self._deadline_s = 0.0
        self._held = contextlib.ExitStack()

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self._process.is_alive()

    def start(self, function: Callable, *args: object, deadline_s: float) -> None:
        """Begin a call, which ends by its deadline, in seconds."""
        self._deadline_s = deadline_s
        if self._process.folder is None:
            self._process.folder = self._held.enter_context(scratch_folder("rt3d-worker-"))
        self._process.send(function, args, timeout=deadline_s)

    def result(self) -> Any:
        """The value of the call that was begun, or the exception that it ended with.

        TimeoutError after its deadline, ChildProcessError where the process died; it is gone then,
        and the next call starts another.
        """
        late = threading.Event()

        def end() -> None:
            late.set()
            self.interrupt()  # `kill` would wait for the pipe that is being read

        watchdog = threading.Timer(self._deadline_s + _GRACE_S, end)
        watchdog.start()
        try:
            return self._process.recv()
        except ChildProcessError as error:
            if late.is_set():
                raise TimeoutError from error
            raise
        finally:
            watchdog.cancel()

    def interrupt(self) -> None:
        """End the process from another thread: who waits for its result sees it die."""
        if (process := self._process._proc) is not None:
            process.kill()

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        if self._process.folder is not None:
            self._process.folder = None
            self._held.close()


def ignore_interrupts() -> None:
    """In the process: Ctrl-C is the affair of the one that started it, and ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
