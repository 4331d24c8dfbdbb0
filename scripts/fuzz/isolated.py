"""Cases in a process that they may take down.

The process is forked from this one, which has imported what takes long and has started no thread.
It judges one case after another until a case ends it, and is renewed from time to time.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rt3d_tvm.errors import InputError
from scripts.fuzz.outcome import Outcome

# A case that waits instead of computing is given so many times the limit of its processor time.
PATIENCE = 10
_CASES = 200  # until the process is renewed
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Processor seconds of a case, bytes beyond what the process has, bytes that may stay."""

    seconds: float = 60.0
    memory: int = 4 << 30
    kept: int = 512 << 20


class Isolated:
    """Judges cases by ``judge``, which is called with what names the case and an empty folder."""

    def __init__(self, judge: Callable[[str, Path], Outcome], limits: Limits) -> None:
        self._judge, self._limits = judge, limits
        self._root = Path(tempfile.mkdtemp(prefix="rt3d-fuzz-"))
        self._pid = self._cases = self._number = 0

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        shutil.rmtree(self._root, ignore_errors=True)

    def __call__(self, case: str) -> Outcome:
        """The outcome of one case."""
        if self._pid and self._cases >= _CASES:
            self._end()
        if not self._pid:
            self._start()
        self._cases += 1
        os.write(self._questions, f"{case}\n".encode())
        before, started, answer = self._used(), time.monotonic(), b""
        while not answer.endswith(b"\n"):
            if select.select([self._answers], [], [], 0.5)[0]:
                part = os.read(self._answers, 1 << 16)
                if not part:
                    return self._died()
                answer += part
                continue
            used, passed = self._used() - before, time.monotonic() - started
            if used > self._limits.seconds or passed > PATIENCE * self._limits.seconds:
                self._end()
                return Outcome("hung", f"{used:.0f} s of processor time in {passed:.0f} s")
        return Outcome(*json.loads(answer))

    def _start(self) -> None:
        (asked, self._questions), (self._answers, answered) = os.pipe(), os.pipe()
        sys.stdout.flush()
        self._cases, self._pid = 0, os.fork()
        if self._pid:
            os.close(asked)
            os.close(answered)
            return
        os.close(self._questions)
        os.close(self._answers)
        try:
            self._serve(asked, answered)
        finally:
            os._exit(1)

    def _serve(self, asked: int, answered: int) -> None:
        """In the process: a line with a case comes, a line with an outcome goes."""
        faulthandler.disable()  # where a case crashes is for who repeats it
        os.setsid()  # what cases start ends with it
        quiet = os.open(self._root / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(quiet, stream)
        os.environ["TMPDIR"] = tempfile.tempdir = str(self._root)
        limit = _statm(0) + self._limits.memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for line in os.fdopen(asked):
            outcome = self.judged(line.strip())
            answer = json.dumps([outcome.kind, " ".join(outcome.detail.split())[:300]])
            os.write(answered, f"{answer}\n".encode())

    def judged(self, case: str) -> Outcome:
        """One case in this very process."""
        self._number += 1
        folder = self._root / f"case{self._number}"  # the loader knows libraries by their paths
        for old in self._root.glob("case*"):
            shutil.rmtree(old, ignore_errors=True)
        folder.mkdir()
        (self._root / "stderr").write_bytes(b"")  # in place: the process writes to it
        before = _statm(1)
        try:
            outcome = self._judge(case, folder)
        except InputError as error:
            outcome = one_line(str(error))
        except Exception as error:  # noqa: BLE001 that is what is looked for
            outcome = Outcome("crashed", f"{place(error)}: {type(error).__name__}: {error}")
        if not outcome.fault and (grown := _statm(1) - before) > self._limits.kept:
            return Outcome("leaked", f"{grown >> 20} MB stay")
        return outcome

    def _used(self) -> float:
        """Seconds of processor time of the process and of what it waited for."""
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
            return sum(int(field) for field in fields[11:15]) / _TICKS
        return 0.0

    def _died(self) -> Outcome:
        said = (self._root / "stderr").read_text(errors="replace").strip().splitlines()
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._pid, pid = 0, self._pid
        self._close(pid)
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return Outcome("crashed", f"{name} {said[-1] if said else ''}")

    def _end(self) -> None:
        if self._pid:
            pid, self._pid = self._pid, 0
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._close(pid)

    def _close(self, group: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        os.close(self._questions)
        os.close(self._answers)


def one_line(message: str) -> Outcome:
    """A refusal; a finding where it is not short or shows where in the code it arose."""
    if "Traceback" in message or len(message) > 2000:
        return Outcome("crashed", f"refused, and not in one clear line: {message}")
    return Outcome("refused", message)


def place(error: BaseException) -> str:
    """Where in this project it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and "fuzz" not in f.filename]
    last = (own or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def _statm(field: int) -> int:
    """Bytes of address space (0) or of memory (1) of this process."""
    return int(Path("/proc/self/statm").read_text().split()[field]) * _PAGE
