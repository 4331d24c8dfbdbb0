"""Batches of kernels run on a machine without TVM, each as one program: bundle/c/tune.c.

The program prints a line for whatever happens; what it prints is read as it comes.
"""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rt3d_tvm.devices.commands import Lines
from rt3d_tvm.devices.defaults import UPLOAD_BYTES_PER_S
from rt3d_tvm.devices.shell import Folder, Machine
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.staging import scratch_folder
from rt3d_tvm.tune.batch_program import BatchTarget, link_batch, shape_and_dtype
from rt3d_tvm.tune.measuring import Job, Outcome, Pauses, Timing

# Seconds until a program counts as silent, beside the deadline of a kernel, which it keeps itself.
_GRACE_S = 15.0
# What may become of a kernel that was begun, as the program says it.
_FATES = ("time", "died", "late", "error")


@dataclass
class _Session:
    """A folder on the machine, the files of arguments in it by name, and the program of which."""

    folder: Folder
    held: dict[str, str] = field(default_factory=dict)
    program: str | None = None
    linked: tuple[Path, ...] | None = None


class Lost(Exception):
    """The session ended before the batch did; ``at`` is the job that it was at."""

    def __init__(self, reason: str, kind: str, at: Job | None) -> None:
        super().__init__(reason)
        self.kind, self.at = kind, at


class BatchRuns:
    """Runs batches on one machine, in a folder that lasts from one to the next.

    name: of the machine, in outcomes. threads: None for its big cores. deadline_s: of one kernel,
    and, with a second more per MB, of a copy.
    """

    def __init__(
        self,
        machine: Machine,
        target: BatchTarget,
        *,
        name: str,
        threads: int | None,
        deadline_s: float,
        pauses: Pauses,
    ) -> None:
        self._machine, self._target, self.name = machine, target, name
        self._deadline_s, self._pauses = deadline_s, pauses
        self._arguments = [] if threads is None else ["--threads", str(threads)]
        self._session: _Session | None = None
        self._abandoned: list[Folder] = []
        self._numbers = itertools.count()
        self._held = ExitStack()
        # In a folder of its own: the scratch folder has a file that says whose it is.
        self._local = self._held.enter_context(scratch_folder("rt3d-batch-")) / "files"
        self._local.mkdir()
        self.state = "starting"

    def end(self) -> None:
        """End the session, and keep nothing here."""
        self.close()
        self._held.close()

    def outcome(self, **what: Any) -> Outcome:
        """An outcome on this machine."""
        return Outcome(device=self.name, **what)

    def run(self, jobs: Sequence[Job], timing: Timing, *more: str) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs as one program; each outcome as its line comes. Lost where it does not end.

        more: further options of the program.
        """
        try:
            session = self._opened(jobs)
            lines = session.folder.start(str(session.program), self._settings(timing, *more))
        except InputError as error:
            raise Lost(str(error), "error", None) from error
        at: Job | None = None
        with lines:
            while (line := self._next(lines, at)) is not None:
                try:
                    word, number, outcome = self._read(line)
                except (ValueError, IndexError):
                    raise Lost(f"{self.name}: it printed {line[:80]!r}", "error", at) from None
                if word == "begin":
                    at = jobs[number]
                    self.state = f"measuring {number + 1} of {len(jobs)}"
                elif outcome is not None:
                    at = None
                    yield jobs[number], outcome
                elif word == "end":
                    self.state = "idle"
                    return
            reason = lines.end().reason.removeprefix("error: ")
            raise Lost(f"{self.name}: the program ended: {reason}", "died", at)

    def _read(self, line: str) -> tuple[str, int, Outcome | None]:
        """A line's word, and of a job its number and outcome.

        ValueError or IndexError for a torn line.
        Words of others, such as a linker's warning, are not the program's.
        """
        word, *rest = line.split(" ")
        if word == "cooling":
            self.state = f"cooling, {rest[0]} °C"
        if word == "begin":
            return word, int(rest[0]), None
        if word in _FATES:
            return word, int(rest[0]), self._told(word, rest[1:])
        return word, -1, None

    def fetched(self, number: int, job: Job) -> np.ndarray:
        """The result that a job, that number of its batch, has left in a file."""
        shape, dtype = shape_and_dtype(job.arguments[job.names[-1]])
        name, nbytes = f"y{number}.bin", int(np.prod(shape)) * dtype.itemsize
        path = self._local / name
        self._session.folder.get(name, path, self._copy_s(nbytes))
        result = np.fromfile(path, dtype)
        path.unlink()
        if result.nbytes != nbytes:
            raise InputError(f"{self.name}: {name} came over as {result.nbytes} of {nbytes} bytes")
        return result.reshape(shape)

    def close(self) -> None:
        """End the session; its folder there is removed, now or when the machine is back."""
        if self._session is not None:
            self._abandoned.append(self._session.folder)
            self._session = None
        self._remove_abandoned()
        shutil.rmtree(self._local)
        self._local.mkdir()

    def _next(self, lines: Lines, at: Job | None) -> str | None:
        limit = self._deadline_s + self._pauses.rest_s + _GRACE_S
        try:
            return lines.next(limit)
        except TimeoutError:
            raise Lost(f"{self.name}: no answer within {limit:g} s", "no answer", at) from None

    def _told(self, word: str, rest: Sequence[str]) -> Outcome:
        """The outcome that a line of the program tells."""
        if word == "time":
            celsius, *seconds = rest
            return self.outcome(seconds=tuple(map(float, seconds)), celsius=float(celsius) or None)
        if word == "late":
            message = f"no answer within {self._deadline_s:g} s when asked to run a kernel"
            return self.outcome(kind="no answer", message=message)
        if word == "died":
            number = int(rest[0])
            known = number in {each.value for each in signal.Signals}
            name = signal.Signals(number).name if known else f"signal {number}"
            return self.outcome(kind="died", message=f"the kernel's process ended by {name}")
        return self.outcome(kind="error", message=" ".join(rest))

    def _settings(self, timing: Timing, *more: str) -> list[str]:
        numbers = {
            "--turns": timing.turns,
            "--repeats": timing.repeats,
            "--min-ms": timing.min_repeat_ms,
            "--deadline-ms": max(round(1e3 * self._deadline_s), 1),
            "--rest-ms": round(1e3 * self._pauses.rest_s),
        }
        words = [word for name, value in numbers.items() for word in (name, str(value))]
        if self._pauses.max_celsius is not None:
            words += ["--celsius", str(self._pauses.max_celsius)]
        return [*self._arguments, *words, *more]

    def _opened(self, jobs: Sequence[Job]) -> _Session:
        """A session whose folder has the program of these jobs, and the arguments of no others."""
        if self._session is None:
            self.state = "opening"
            self._session = _Session(self._machine.open())
            self._remove_abandoned()
        session = self._session
        values = {name: value for job in jobs for name, value in job.arguments.items()}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        unused = [name for name in session.held if name not in arrays]
        if unused:
            self._drop(session, [session.held.pop(name) for name in unused])
        new = []
        for name, value in arrays.items():
            if name not in session.held:
                path = self._local / f"a{next(self._numbers)}.bin"
                value.tofile(path)
                session.held[name] = path.name
                new.append(path)
        key = tuple(job.path for job in jobs)
        if session.linked != key:
            if session.program is not None:
                self._drop(session, [session.program])
            self.state = "linking"
            new.append(self._link(jobs, session.held))
            session.linked, session.program = key, new[-1].name
        if new:
            self.state = "taking arguments"
            session.folder.put(new, self._copy_s(sum(path.stat().st_size for path in new)))
        return session

    def _link(self, jobs: Sequence[Job], held: dict[str, str]) -> Path:
        with scratch_folder("rt3d-link-") as folder:
            made = folder / f"tune{next(self._numbers)}"
            link_batch(jobs, held, made, self._target)
            return Path(shutil.move(made, self._local / made.name))

    def _drop(self, session: _Session, names: Sequence[str]) -> None:
        session.folder.remove(names)
        for name in names:
            (self._local / name).unlink(missing_ok=True)

    def _copy_s(self, nbytes: float) -> float:
        return self._deadline_s + nbytes / UPLOAD_BYTES_PER_S

    def _remove_abandoned(self) -> None:
        """Folders there that are of no use any more; from a machine that is away, later."""
        while self._abandoned:
            try:
                self._abandoned[-1].close()
            except InputError:
                return
            self._abandoned.pop()
