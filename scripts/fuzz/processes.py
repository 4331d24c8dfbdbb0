"""Commands of rt3d in processes that are forked from this one, and what they leave behind."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from rt3d_tvm import cli

# Seconds until a command is given up; processor seconds that what it had started may take to end,
# and how many times that where it waits for a processor.
_PATIENCE_S, _END_S, _WAITING = 1200.0, 30.0, 10
_TICKS = os.sysconf("SC_CLK_TCK")


class Fault(Exception):
    """What must not be: an outcome's kind and words."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def started(argv: Sequence[str], folder: Path) -> int:
    """A process that runs a command, its output in ``folder``/log."""
    (folder / "tmp").mkdir(exist_ok=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
    status = 70
    try:
        status = cli.main([str(word) for word in argv])
        sys.stdout.flush()
        atexit._run_exitfuncs()  # as where a process ends by itself
    except Exception:  # noqa: BLE001 for the log; the status tells
        traceback.print_exc()
    finally:
        os._exit(status)


def finished(argv: Sequence[str], folder: Path) -> None:
    """Run a command to its end; Fault where that is not status 0."""
    pid, until = started(argv, folder), time.monotonic() + _PATIENCE_S
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise Fault("hung", f"rt3d {argv[0]} does not end")
        time.sleep(0.02)
    if code := os.waitstatus_to_exitcode(status):
        said = (folder / "log").read_text(errors="replace").strip().splitlines()
        raise Fault("crashed", f"rt3d {argv[0]}: status {code}: {said[-1] if said else ''}")
    none_lives(pid)


def none_lives(group: int) -> None:
    """Fault where a process of that session does not end."""
    until, begun = time.monotonic() + _WAITING * _END_S, _used(group)
    while living := _living(group):
        if time.monotonic() > until or _used(group) - begun > _END_S:
            for pid in living:
                os.kill(pid, signal.SIGKILL)
            raise Fault("leaked", f"{len(living)} processes live on")
        time.sleep(0.1)


def _living(group: int) -> list[int]:
    return [process for process, _ in _fields_of(group)]


def _used(group: int) -> float:
    """Processor seconds of what lives of a session."""
    return sum(int(fields[11]) + int(fields[12]) for _, fields in _fields_of(group)) / _TICKS


def _fields_of(group: int) -> list[tuple[int, list[str]]]:
    """Each living process of a session, and what /proc says behind its name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended
            continue
        if int(fields[3]) == group and fields[0] != "Z":
            found.append((int(path.parent.name), fields))
    return found
