"""A machine without TVM as the device of a search: kernels go there in batches, as one program.

The program (bundle/c/tune.c) runs each kernel in a process of its own: one that crashes or hangs
fails alone. What the machine itself does meanwhile is seen here: a program that falls silent or
ends early is started again behind the kernel that it was at, and a machine that has gone is waited
for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from rt3d_tvm.bundle.write import unanswered
from rt3d_tvm.devices.device import DeviceFailure
from rt3d_tvm.devices.shell import Machine
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune.batch_program import BatchTarget
from rt3d_tvm.tune.batch_runs import BatchRuns, Lost
from rt3d_tvm.tune.measuring import (
    MOST_FAILURES,
    RETRY_S,
    TRIAL,
    Job,
    Outcome,
    Pauses,
    Timing,
)

# How often a kernel fails until it is left out, if another one works.
_TRIES = 2


class Batches:
    """What a search asks of devices (`Measuring`), of one machine that files can be brought to.

    The other arguments are those of `BatchRuns`. patience_s: how long to wait for a machine that
    has gone.
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
        self._machine, self._name, self._say, self._patience_s = machine, name, say, patience_s
        self._runs = BatchRuns(
            machine,
            target,
            name=name,
            threads=threads,
            deadline_s=deadline_s,
            pauses=pauses or Pauses(),
        )
        self._losses = 0
        self._reference: Job | None = None
        self.quarantined: dict[str, str] = {}

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self._runs.end()

    @property
    def states(self) -> list[str]:
        """What the machine is doing."""
        return [f"{self._name}: {self._runs.state}"]

    @property
    def reference(self) -> Job | None:
        """The job that is known to work; its file has to stay."""
        return self._reference

    def probe(self) -> None:
        """InputError where the machine runs no program for the target."""
        try:
            list(self._runs.run([], TRIAL))
        except Lost as lost:
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
            return {job.id: self._runs.fetched(number, job) for number, job in enumerate(worked)}
        except InputError as error:
            self._runs.close()
            self._await(str(error), blamed=True)
            raise DeviceFailure(str(error), "died") from error

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
                raise DeviceFailure(f"{self._name}: {outcome.message}", outcome.kind or "error")
            left = [job for job in left if tries[job] < _TRIES]
        raise DeviceFailure(f"{self._name}: no run of {len(jobs)} kernels came to its end", "died")

    def _outcomes(
        self, jobs: Sequence[Job], timing: Timing, *more: str
    ) -> Iterator[tuple[Job, Outcome]]:
        """What becomes of a batch; some of it where the session is lost on the way."""
        good = []
        for job in jobs:
            if unknown := unanswered(job.path.read_bytes()):
                message = f"it calls {', '.join(unknown)}, which the C runtime has not"
                yield job, self._runs.outcome(kind="build", message=message)
            else:
                good.append(job)
        if not good:
            return
        try:
            for job, outcome in self._runs.run(good, timing, *more):
                if outcome.kind is None:
                    self._losses = 0
                yield job, outcome
        except Lost as lost:
            if lost.at is not None:
                yield lost.at, self._runs.outcome(kind=lost.kind, message=str(lost))
            self._runs.close()
            self._await(str(lost), blamed=lost.at is not None)

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
                self._runs.state = f"waiting: {error}"
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
        self._losses += 1
        if self._losses >= MOST_FAILURES:
            self.quarantined[self._name] = reason
            self._say(f"{self._name} is quarantined: {reason}")
            raise InputError(f"no device is left: {reason}")
