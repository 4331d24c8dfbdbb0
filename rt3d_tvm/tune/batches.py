"""A machine without TVM as the device of a search: kernels go there in batches, as one program.

The program (bundle/c/tune.c) runs each kernel in a process of its own: one that crashes or hangs
fails alone. What the machine itself does meanwhile is seen here: a program that falls silent or
ends early is started again behind the kernel that it was at, and a machine that has gone is waited
for.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rt3d_tvm.bundle.write import unanswered
from rt3d_tvm.devices.commands import Lines
from rt3d_tvm.devices.device import UPLOAD_BYTES_PER_S, DeviceFailure
from rt3d_tvm.devices.shell import Folder, Machine
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.staging import scratch_folder
from rt3d_tvm.tune.batch_program import BatchTarget, link_batch, shape_and_dtype
from rt3d_tvm.tune.measuring import (
    MOST_FAILURES,
    RETRY_S,
    TRIAL,
    Job,
    Outcome,
    Pauses,
    Timing,
)

# Seconds until a program counts as silent, beside the deadline of a kernel, which it keeps itself.
_GRACE_S = 15.0
# How often a kernel fails until it is left out, if another one works.
_TRIES = 2


@dataclass
class _Session:
    """A folder on the machine, the files of arguments in it by name, and the program of which."""

    folder: Folder
    held: dict[str, str] = field(default_factory=dict)
    program: str | None = None
    linked: tuple[Path, ...] | None = None


class _Lost(Exception):
    """The session ended before the batch did; ``at`` is the job that it was at."""

    def __init__(self, reason: str, kind: str, at: Job | None) -> None:
        super().__init__(reason)
        self.kind, self.at = kind, at


class Batches:
    """What a search asks of devices (`Measuring`), of one machine that files can be brought to.

    name: of the machine, in records. threads: None for its big cores. deadline_s: of one kernel,
    and, with a second more per MB, of a copy. patience_s: how long to wait for a machine that has
    gone.
    """

    def __init__(
        self,
        machine: Machine,
        target: BatchTarget,
        *,
        name: str,
        threads: int | None = None,
        deadline_s: float,
        say: Callable[[str], None],
        pauses: Pauses | None = None,
        patience_s: float = 300.0,
    ) -> None:
        self._machine, self._target, self.name = machine, target, name
        self._deadline_s, self._patience_s, self._say = deadline_s, patience_s, say
        self._pauses = pauses or Pauses()
        self._arguments = [] if threads is None else ["--threads", str(threads)]
        self._state, self._lost = "starting", 0
        self._session: _Session | None = None
        self._abandoned: list[Folder] = []
        self._numbers = itertools.count()
        self._reference: Job | None = None
        self._held = contextlib.ExitStack()
        self.quarantined: dict[str, str] = {}

    def __enter__(self) -> Batches:
        self._local = self._held.enter_context(scratch_folder("rt3d-batch-"))
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self._held.close()

    @property
    def states(self) -> list[str]:
        """What the machine is doing."""
        return [f"{self.name}: {self._state}"]

    @property
    def reference(self) -> Job | None:
        """The job that is known to work; its file has to stay."""
        return self._reference

    def probe(self) -> None:
        """InputError where the machine runs no program for the target."""
        try:
            list(self._batch([], TRIAL))
        except _Lost as lost:
            raise InputError(str(lost)) from lost

    def measure(self, jobs: Iterable[Job], timing: Timing = TRIAL) -> Iterator[tuple[Job, Outcome]]:
        """The outcome of every job, as they come. InputError when the machine is given up.

        A job that fails is tried again, beside one that is known to work: if that works, the fault
        is the job's.
        """
        left, first, tries = list(jobs), dict[Job, Outcome](), Counter[Job]()
        while left:
            # Last what may take the machine down.
            batch = sorted(left, key=tries.__getitem__)
            if first and self._reference is not None and self._reference not in batch:
                batch.insert(0, self._reference)
            worked, failed = False, list[Job]()
            for job, outcome in self._outcomes(batch, timing):
                if outcome.kind is not None:
                    failed.append(job)
                    first.setdefault(job, outcome)
                    continue
                worked = True
                self._reference = self._reference or job
                if job in left:
                    left.remove(job)
                    yield job, outcome
            for job in failed:
                tries[job] += 1
                # What does not link or load is no fault of the machine's.
                if job in left and (first[job].kind == "build" or (worked and tries[job] > 1)):
                    left.remove(job)
                    yield job, first[job]
            if failed and not worked and left:
                self._count_loss(first[failed[0]].message)

    def in_turns(self, jobs: Sequence[Job], timing: Timing) -> list[list[float]]:
        """Seconds of each run of each job, in turns; none of a job that fails twice.

        DeviceFailure where that is the first.
        """
        seconds: dict[Job, list[float]] = {}
        for job, outcome in self._complete(jobs, timing):
            seconds.setdefault(job, []).extend(outcome.seconds)
        return [seconds.get(job, []) for job in jobs]

    def results(self, jobs: Sequence[Job]) -> dict[Any, np.ndarray]:
        """What each job computes, by its id; as `in_turns`."""
        timing, seed = Timing(turns=1, repeats=1), np.random.default_rng().integers(1 << 30)
        worked = [job for job, _ in self._complete(jobs, timing, "--results", str(seed))]
        try:
            return {job.id: self._fetched(number, job) for number, job in enumerate(worked)}
        except InputError as error:
            self._close()
            self._await(str(error), blamed=True)
            raise DeviceFailure(str(error), "died") from error

    def _fetched(self, number: int, job: Job) -> np.ndarray:
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

    def _complete(
        self, jobs: Sequence[Job], timing: Timing, *more: str
    ) -> list[tuple[Job, Outcome]]:
        """The outcomes of one whole run of the jobs that work; DeviceFailure without the first."""
        tries: Counter[Job] = Counter()
        left = list(jobs)
        for _ in range(MOST_FAILURES + len(jobs)):
            outcomes = list(self._outcomes(left, timing, *more))
            failed = {job: outcome for job, outcome in outcomes if outcome.kind is not None}
            if not failed and {job for job, _ in outcomes} == set(left):
                return outcomes
            tries.update(failed.keys())
            if tries[jobs[0]] >= _TRIES:
                outcome = failed[jobs[0]]
                raise DeviceFailure(f"{self.name}: {outcome.message}", outcome.kind or "error")
            left = [job for job in left if tries[job] < _TRIES]
        raise DeviceFailure(f"{self.name}: no run of {len(jobs)} kernels came to its end", "died")

    def _outcomes(
        self, jobs: Sequence[Job], timing: Timing, *more: str
    ) -> Iterator[tuple[Job, Outcome]]:
        """What becomes of a batch; some of it where the session is lost on the way."""
        good = []
        for job in jobs:
            if unknown := unanswered(job.path.read_bytes()):
                message = f"it calls {', '.join(unknown)}, which the C runtime has not"
                yield job, self._outcome(kind="build", message=message)
            else:
                good.append(job)
        if not good:
            return
        try:
            for job, outcome in self._batch(good, timing, *more):
                if outcome.kind is None:
                    self._lost = 0
                yield job, outcome
        except _Lost as lost:
            if lost.at is not None:
                yield lost.at, self._outcome(kind=lost.kind, message=str(lost))
            self._close()
            self._await(str(lost), blamed=lost.at is not None)

    def _outcome(self, **what: Any) -> Outcome:
        return Outcome(device=self.name, **what)

    def _batch(
        self, jobs: Sequence[Job], timing: Timing, *more: str
    ) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs as one program; each outcome as its line comes. _Lost where it does not end."""
        try:
            session = self._opened(jobs)
            lines = session.folder.start(str(session.program), self._settings(timing, *more))
        except InputError as error:
            raise _Lost(str(error), "error", None) from error
        at: Job | None = None
        with lines:
            while (line := self._next(lines, at)) is not None:
                word, *rest = line.split(" ", 3)
                if word == "cooling":
                    self._state = f"cooling, {rest[0]} °C"
                elif word == "begin":
                    at = jobs[int(rest[0])]
                    self._state = f"measuring {int(rest[0]) + 1} of {len(jobs)}"
                elif word in ("time", "died", "late", "error"):
                    at = None
                    yield jobs[int(rest[0])], self._told(word, rest[1:])
                elif word == "end":
                    self._state = "idle"
                    return
            ended = lines.end()
            raise _Lost(f"{self.name}: the program ended: {_said(ended.reason)}", "died", at)

    def _next(self, lines: Lines, at: Job | None) -> str | None:
        limit = self._deadline_s + self._pauses.rest_s + _GRACE_S
        try:
            return lines.next(limit)
        except TimeoutError:
            raise _Lost(f"{self.name}: no answer within {limit:g} s", "no answer", at) from None

    def _told(self, word: str, rest: Sequence[str]) -> Outcome:
        """The outcome that a line of the program tells."""
        if word == "time":
            celsius, *seconds = " ".join(rest).split()
            return self._outcome(seconds=tuple(map(float, seconds)), celsius=float(celsius) or None)
        if word == "late":
            message = f"no answer within {self._deadline_s:g} s when asked to run a kernel"
            return self._outcome(kind="no answer", message=message)
        if word == "died":
            number = int(rest[0])
            known = number in {each.value for each in signal.Signals}
            name = signal.Signals(number).name if known else f"signal {number}"
            return self._outcome(kind="died", message=f"the kernel's process ended by {name}")
        return self._outcome(kind="error", message=" ".join(rest))

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
            self._state = "opening"
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
            self._state = "linking"
            new.append(self._link(jobs, session.held))
            session.linked, session.program = key, new[-1].name
        if new:
            self._state = "taking arguments"
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

    def _close(self) -> None:
        if self._session is not None:
            self._abandoned.append(self._session.folder)
            self._session = None
        self._remove_abandoned()
        for path in self._local.iterdir():
            path.unlink()

    def _remove_abandoned(self) -> None:
        """Folders there that are of no use any more; from a machine that is away, later."""
        while self._abandoned:
            try:
                self._abandoned[-1].close()
            except InputError:
                return
            self._abandoned.pop()

    def _await(self, reason: str, *, blamed: bool) -> None:
        """Until the machine is there. InputError where it stays away, or fails by itself too often.

        blamed: a kernel is said to have failed, which is tried again.
        """
        until, told = time.monotonic() + self._patience_s, False
        while True:
            try:
                self._machine.check()
                break
            except InputError as error:
                self._state = f"waiting: {error}"
                if not told:
                    self._say(f"waiting: {error}")
                    told = True
                if time.monotonic() >= until:
                    self._say(f"given up: {error}")
                    raise InputError(f"no device is left: {error}") from error
                time.sleep(RETRY_S)
        if not (told or blamed):
            self._count_loss(reason)

    def _count_loss(self, reason: str) -> None:
        """One more failure that is the machine's own; InputError where it is one too many."""
        self._lost += 1
        if self._lost >= MOST_FAILURES:
            self.quarantined[self.name] = reason
            self._say(f"{self.name} is quarantined: {reason}")
            raise InputError(f"no device is left: {reason}")


def _said(reason: str) -> str:
    return reason.removeprefix("error: ")
