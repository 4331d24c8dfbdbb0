"""The loop of a search: which task is next, build, measure, log; at the end verify and record."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm.target import Target

from rt3d_tvm.artifact.load import available_cores
from rt3d_tvm.compile.backends import device_class
from rt3d_tvm.compile.choices.layer import Choice
from rt3d_tvm.compile.choices.records import TUNED, TunedRecord, share, workload, write_records
from rt3d_tvm.tune.builder import Builder
from rt3d_tvm.tune.cost_model import CostModel
from rt3d_tvm.tune.jobs import search_job
from rt3d_tvm.tune.log import TrialLog
from rt3d_tvm.tune.measuring import Job, Measuring, Outcome
from rt3d_tvm.tune.search import TaskSearch, next_task
from rt3d_tvm.tune.tasks import Task
from rt3d_tvm.tune.verified import verified
from rt3d_tvm.tune.watch import State, Watch
from rt3d_tvm.tune.work_dir import open_work

# How many trials are compiled and measured at a time; of one layer at most so many times its share,
# where it takes most of the model's time.
ROUND, MOST = 8, 2


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """One task's result: medians of runs in turns, in ms; ``choice`` is the default's own where
    nothing was faster. wrong: choices that were fast and computed something else. doubt: why the
    times are not to be trusted, None where nothing speaks against them."""

    task: str
    calls: int
    trials: int
    failures: dict[str, int]
    default_ms: float
    tuned_ms: float
    choice: Choice
    wrong: tuple[str, ...]
    doubt: str | None = None


@dataclass(frozen=True, kw_only=True)
class TuningReport:
    """All tasks, and over all layers: milliseconds at the defaults and tuned.

    quarantined: devices that are left alone, and why. paired: layers that share a kernel with
    another, kgs_conv2plus1d, for which there are no choices.
    """

    tasks: tuple[Tuned, ...]
    default_ms: float
    tuned_ms: float
    trials: int
    failures: dict[str, int]
    quarantined: dict[str, str]
    seconds: float
    paired: int = 0


class Tuner:
    """The loop: which task is next, build, measure, log; at the end verify and write the records.

    heights: of a row block that are searched; None for all that are worth it.
    """

    def __init__(
        self,
        target: Target,
        tasks: Sequence[Task],
        *,
        work: Path,
        session: dict,
        heights: tuple[int, ...] | None = None,
        watch: Watch,
    ) -> None:
        self._target, self._watch, self._work, self._session = target, watch, work, session
        self._log: TrialLog = open_work(work, session, warn=watch.say)
        self._model = CostModel(threads=available_cores())
        self._searches = [TaskSearch(task, target, heights=heights) for task in tasks]
        self._finals: dict[str, dict] = {}
        self._failures: Counter[str] = Counter()
        self._began = time.monotonic()
        self._planned = 0
        self._replay()

    def __enter__(self) -> Tuner:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def run(
        self, builder: Builder, devices: Measuring, *, trials: int, overlap: bool = False
    ) -> TuningReport:
        """Search with ``trials`` a task on the average, then verify the best.

        overlap: build kernels while others are measured.
        """
        self._planned = trials * len(self._searches)
        if self._done:
            self._watch.say(f"{self._log.path} has {self._done} trials; the search goes on")
        while self._done < self._planned:
            search = next_task(self._searches, most=MOST * trials)
            if search is None:
                break
            # A first round no longer than a task's share, so that every task has one.
            most = ROUND if search.trials else min(ROUND, trials)
            count = min(most, self._planned - self._done)
            self._round(search, count, builder, devices, overlap=overlap)
        tuned = [self._final(search, builder, devices) for search in self._searches]
        self._write_records(tuned)
        return TuningReport(
            tasks=tuple(tuned),
            default_ms=sum(each.calls * each.default_ms for each in tuned),
            tuned_ms=sum(each.calls * each.tuned_ms for each in tuned),
            trials=self._done,
            failures=dict(self._failures),
            quarantined=dict(devices.quarantined),
            seconds=time.monotonic() - self._began,
        )

    @property
    def _done(self) -> int:
        return sum(search.trials for search in self._searches)

    def _replay(self) -> None:
        """Take up what the log holds; rows of an unknown task or choice are not used."""
        by_name = {search.task.name: search for search in self._searches}
        unknown = 0
        for row in self._log.rows:
            try:
                search = by_name[row["task"]]
                if "final" in row:
                    Choice.from_json(row["final"]["choice"])
                    self._finals[row["task"]] = row["final"]
                    continue
                choice = Choice.from_json(row["choice"])
                if "failure" in row:
                    self._failed(search, choice, str(row["failure"]["kind"]))
                else:
                    seconds = tuple(float(value) for value in row["seconds"])
                    if not seconds or min(seconds) <= 0:
                        raise ValueError("no time")
                    search.add(choice, seconds, self._model)
            except (KeyError, TypeError, ValueError, AttributeError):
                unknown += 1
        if unknown:
            self._watch.say(f"{self._log.path}: {unknown} rows are of no trial of this model")

    def _failed(self, search: TaskSearch, choice: Choice, kind: str) -> None:
        search.fail(choice, kind)
        self._failures[kind] += 1

    def _round(
        self, search: TaskSearch, count: int, builder: Builder, devices: Measuring, *, overlap: bool
    ) -> None:
        """Build and measure what the search proposes; each outcome is logged as it comes."""
        choices = search.propose(count, self._model)
        # Those that share their weights one after the other: these are then sent once.
        choices.sort(
            key=lambda c: (c.variant.g_m, c.variant.channels, c.variant.chunk, c.variant.texture)
        )
        if search.default in choices:
            choices.remove(search.default)
            choices.insert(0, search.default)

        def jobs() -> Iterator[Job]:
            libraries = builder.build([search.kernel(choice) for choice in choices])
            for choice, library in zip(choices, libraries, strict=True):
                if isinstance(library, Path):
                    yield search_job(search, choice, library)
                else:
                    self._record(search, choice, Outcome(kind="build", message=library))

        # A compiler at work beside it would slow a kernel down that runs on this machine.
        for job, outcome in devices.measure(jobs() if overlap else list(jobs())):
            self._record(search, job.id, outcome)
            if job is not devices.reference:
                job.path.unlink()
            self._show(search, devices)
        search.task.layer.forget()

    def _record(self, search: TaskSearch, choice: Choice, outcome: Outcome) -> None:
        """On disk first, then part of the search."""
        row = {"task": search.task.name, "choice": choice.to_json(), "at": round(time.time(), 3)}
        row["device"] = outcome.device
        if outcome.celsius is not None:
            row["celsius"] = outcome.celsius
        if outcome.kind is None:
            self._log.append({**row, "seconds": list(outcome.seconds)})
            search.add(choice, outcome.seconds, self._model)
        else:
            message = " ".join(outcome.message.split())[:300]
            self._log.append({**row, "failure": {"kind": outcome.kind, "message": message}})
            self._failed(search, choice, outcome.kind)

    def _final(self, search: TaskSearch, builder: Builder, devices: Measuring) -> Tuned:
        """Measure the best again, in turns with the default, and look at what they compute."""
        task = search.task
        kept = self._finals.get(task.name)
        if kept is None or kept["trials"] != search.trials:
            kept = verified(search, builder, devices, self._watch.say)
            self._log.append({"task": task.name, "final": kept})
        task.layer.forget()
        failures = Counter(search.failed.values())
        return Tuned(
            task=task.name,
            calls=task.calls,
            trials=search.trials,
            failures=dict(failures),
            default_ms=kept["default_ms"],
            tuned_ms=kept["tuned_ms"],
            choice=Choice.from_json(kept["choice"]),
            wrong=tuple(kept["wrong"]),
            doubt=kept.get("doubt"),  # older searches do not say
        )

    def _write_records(self, tuned: Sequence[Tuned]) -> None:
        about = {
            "device_class": device_class(self._target),
            "model": self._session["model"],
            "versions": self._session["versions"],
        }
        devices = {row["device"] for row in self._log.rows if row.get("device")}
        processor = self._target.attrs.get("mcpu") or self._session.get("gpu")
        write_records(
            self._work / TUNED,
            [
                TunedRecord(
                    workload=workload(search.task.layer.conv),
                    share=round(share(search.task.layer.conv), 4),
                    choice=each.choice,
                    default_ms=round(each.default_ms, 5),
                    tuned_ms=round(each.tuned_ms, 5),
                    device=", ".join(sorted(devices)) + (f" ({processor})" if processor else ""),
                    **about,
                )
                for search, each in zip(self._searches, tuned, strict=True)
            ],
        )

    def _show(self, search: TaskSearch, devices: Measuring) -> None:
        default = search.seconds.get(search.default)
        self._watch.show(
            State(
                task=search.task.name,
                done=self._done,
                planned=self._planned,
                best_ms=search.best and 1e3 * search.best,
                default_ms=default and 1e3 * default,
                failures=dict(self._failures),
                devices=devices.states,
            )
        )
