"""Tuning a model on a device: trials, a log that survives anything, and verified records.

tune_onnx("model.onnx", "work", target="host")
compile_onnx("model.onnx", "artifact", database="work")
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tvm.target import Target

from rt3d_tvm.artifact.load import available_cores, file_sha256
from rt3d_tvm.artifact.opencl.drivers import choose_device, describe
from rt3d_tvm.compile.choices.records import (
    FORMAT,
    TUNED,
    TunedRecord,
    device_class,
    share,
    workload,
    write_records,
)
from rt3d_tvm.compile.choices.space import Choice, Layer, Variant
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.link import export_arguments
from rt3d_tvm.compile.passes.kgs_conv3d import read_report
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.compile.targets import check_precision, default_precision, is_opencl, make_target
from rt3d_tvm.devices.remote import Device, DeviceFailure
from rt3d_tvm.errors import InputError
from rt3d_tvm.precision import make_precision
from rt3d_tvm.scratch_folder import scratch_folder
from rt3d_tvm.tune.builder import Builder
from rt3d_tvm.tune.check import drawn, why_wrong
from rt3d_tvm.tune.cost_model import CostModel
from rt3d_tvm.tune.fleet import Devices, Job, Outcome, Pauses, Timing, together
from rt3d_tvm.tune.log import TrialLog
from rt3d_tvm.tune.openers import device_opener, opencl_opener
from rt3d_tvm.tune.search import TaskSearch, next_task
from rt3d_tvm.tune.tasks import Task, extract_tasks
from rt3d_tvm.tune.watch import State, Watch
from rt3d_tvm.tune.work_dir import open_work
from topi_sparse.cpu.kgs_conv2plus1d import PAIR_ATTRIBUTE
from topi_sparse.kernel_group import KernelGroup

# Trials a layer; how many of them are compiled and measured at a time; of one layer at most so many
# times its share, where it takes most of the model's time.
TRIALS, ROUND, MOST = 64, 8, 2
# Seconds that one trial may take.
DEADLINE_S = 60.0
# How many of the best are measured again beside the default, how, and by how much one of them has
# to be faster to be taken.
BEST, FINAL, MARGIN = 3, Timing(turns=7, repeats=2, min_repeat_ms=10), 1.02
# Seconds to wait for a device that has gone before it is given up.
PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """One task's result: medians of runs in turns, in ms; ``choice`` is the default's own where
    nothing was faster. wrong: choices that were fast and computed something else."""

    task: str
    calls: int
    trials: int
    failures: dict[str, int]
    default_ms: float
    tuned_ms: float
    choice: Choice
    wrong: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TuningReport:
    """All tasks, and over all layers: milliseconds at the defaults and tuned.

    aside: devices that were set aside, and why. paired: layers that share a kernel with another,
    kgs_conv2plus1d, for which there are no choices.
    """

    tasks: tuple[Tuned, ...]
    default_ms: float
    tuned_ms: float
    trials: int
    failures: dict[str, int]
    aside: dict[str, str]
    seconds: float
    paired: int = 0


def tune_onnx(
    onnx_path: Path,
    work: Path,
    *,
    target: str = "host",
    tracker: tuple[str, int] | None = None,
    key: str | None = None,
    trials: int = TRIALS,
    group: KernelGroup | None = None,
    winograd: bool = True,
    precision: str | None = None,
    threads: int | None = None,
    deadline_s: float = DEADLINE_S,
    pauses: Pauses | None = None,
    opencl: str | None = None,
    watch: Watch | None = None,
) -> TuningReport:
    """Search for faster kernels of a model, ``trials`` a layer, and write the best into ``work``.

    A search that was stopped, whatever stopped it, goes on where it was. Kernels run on this
    machine, or on the devices of a tracker under ``key``, on ``threads`` cores, by default all of
    this machine's and a device's big ones; those for OpenCL on the GPU of such a device, or on one
    of this machine, the first or the one whose name has ``opencl`` in it. group, winograd,
    precision: as of `compile_onnx`.
    InputError for bad input, a work directory of something else, and when no device is left.
    """
    watch = watch or Watch()
    made_for = make_target(target)
    chosen = make_precision(precision or default_precision(target))
    check_precision(chosen, made_for, target)
    settings, here = {}, is_opencl(made_for) and tracker is None
    half = chosen.dtype == "float16"
    if here:
        opener = opencl_opener(key, target, threads, opencl, half, deadline_s)
        count, renew_s = 1, float("inf")
        # What is found holds for that device.
        settings["opencl"] = str(describe(choose_device(opencl, half=half)))
    elif opencl is not None:
        runs_on = "the GPU of the tracker's device" if is_opencl(made_for) else "cores"
        raise InputError(f"target {target} runs on {runs_on}, not on the OpenCL device {opencl!r}")
    else:
        export_arguments(made_for.host or made_for)
        opener, count, renew_s, gpu = device_opener(
            tracker, key, target, threads, deadline_s, half=half
        )
        settings |= {"gpu": gpu} if gpu else {}
    watch.say("import and lower")
    mod = import_onnx(Path(onnx_path))
    try:
        mod = lower(mod, made_for, group=group, winograd=winograd, dtype=chosen.dtype)
    except ValueError as error:
        raise InputError(str(error)) from error
    tasks = extract_tasks(mod)
    if not tasks:
        raise InputError(f"{onnx_path}: none of its layers has a kernel that can be tuned")
    session = {
        "format": FORMAT,
        "model": Path(onnx_path).name,
        "model_sha256": file_sha256(Path(onnx_path)),
        "target": target,
        "tvm_target": json.loads(str(made_for)),
        "group": str(group) if group else "auto",
        "winograd": winograd,
        "precision": chosen.name,
        "threads": threads,
        "versions": versions(),
        **settings,
    }
    tuner = Tuner(
        made_for,
        tasks,
        work=Path(work),
        session=session,
        heights=None if group is None else (group.g_m,),
        watch=watch,
    )
    with (
        tuner,
        scratch_folder("rt3d-tune-") as folder,
        Builder(made_for, folder, plans=here) as builder,
        Devices(
            opener, count, say=watch.say, pauses=pauses, renew_s=renew_s, patience_s=PATIENCE_S
        ) as devices,
    ):
        report = tuner.run(builder, devices, trials=trials, overlap=tracker is not None)
    paired = sum(entry.kernel == PAIR_ATTRIBUTE for entry in read_report(mod))
    return replace(report, paired=paired)


def versions() -> dict[str, str]:
    """Of what a record depends on."""
    return {name: version(name) for name in ("apache-tvm", "apache-tvm-ffi")}


def kernel_job(
    layer: Layer, name: str, variant: Variant, library: Path, *, id: object = None
) -> Job:
    """A library with its layer's own weights and offsets, packed for the variant, and drawn inputs.

    name: of the layer, which tells its arguments from those of others.
    """
    conv, values = layer.conv, drawn(layer)
    weights = f"{name}/{variant.g_m}/{variant.channels}/{variant.chunk}"
    places = f"{weights}/{'texture' if variant.texture else 'buffer'}"
    blocks, offsets, pointers, bias = layer.packed(variant)
    arguments = {
        f"{name}/x": conv.x.packed(values["x"]),
        f"{weights}/blocks": blocks,
        f"{places}/offsets": offsets,
        f"{weights}/pointers": pointers,
        f"{name}/{len(bias)}/bias": bias,
    }
    if conv.residual:
        arguments[f"{name}/residual"] = conv.residual.packed(values["residual"])
    arguments[f"{name}/y"] = (conv.y.shape(conv.out), conv.dtype)
    return Job(id, library, arguments)


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
        self._began, self._resumed = time.monotonic(), 0
        self._planned = 0
        self._replay()

    def __enter__(self) -> Tuner:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def run(
        self, builder: Builder, devices: Devices, *, trials: int, overlap: bool = False
    ) -> TuningReport:
        """Search with ``trials`` a task on the average, then verify the best.

        overlap: build kernels while others are measured.
        """
        self._planned = trials * len(self._searches)
        self._resumed = self._done
        if self._resumed:
            self._watch.say(f"{self._log.path} has {self._resumed} trials; the search goes on")
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
            aside=dict(devices.aside),
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
        self, search: TaskSearch, count: int, builder: Builder, devices: Devices, *, overlap: bool
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
            libraries = builder.build([self._kernel(search, choice) for choice in choices])
            for choice, library in zip(choices, libraries, strict=True):
                if isinstance(library, Path):
                    yield self._job(search, choice, library)
                else:
                    self._record(search, choice, Outcome(kind="build", message=library))

        # A compiler at work beside it would slow a kernel down that runs on this machine.
        for job, outcome in devices.measure(jobs() if overlap else list(jobs())):
            self._record(search, job.id, outcome)
            if job is not devices.judge:
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

    def _kernel(self, search: TaskSearch, choice: Choice) -> tuple:
        return search.task.layer.definition(choice.variant), choice.decisions

    def _job(self, search: TaskSearch, choice: Choice, library: Path) -> Job:
        return kernel_job(search.task.layer, search.task.name, choice.variant, library, id=choice)

    def _final(self, search: TaskSearch, builder: Builder, devices: Devices) -> Tuned:
        """Measure the best again, in turns with the default, and look at what they compute."""
        task = search.task
        kept = self._finals.get(task.name)
        if kept is None or kept["trials"] != search.trials:
            kept = self._verified(search, builder, devices)
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
        )

    def _verified(self, search: TaskSearch, builder: Builder, devices: Devices) -> dict:
        self._watch.say(f"verify {search.task.name}")
        candidates = [search.default, *search.fastest(BEST)]
        libraries = builder.build([self._kernel(search, choice) for choice in candidates])
        jobs = []
        for choice, library in zip(candidates, libraries, strict=True):
            if isinstance(library, Path):
                jobs.append(self._job(search, choice, library))
            elif choice == search.default:
                raise InputError(f"{search.task.name}: its default does not compile: {library}")
        results, seconds = self._compared(jobs, devices)
        values = drawn(search.task.layer)
        wrong, medians = [], {}
        for job in jobs:
            if job.id not in results:
                continue
            reason = why_wrong(search.task.layer, results[job.id], results[search.default], values)
            if reason is None:
                medians[job.id] = statistics.median(seconds[job.id])
            elif job.id == search.default:
                raise InputError(f"{search.task.name}: its default is wrong: {reason}")
            else:
                wrong.append(f"{json.dumps(job.id.to_json())}: {reason}")
                self._watch.say(f"{search.task.name}: a fast choice is wrong: {reason}")
        best = min(medians, key=medians.__getitem__)
        if medians[search.default] < MARGIN * medians[best]:
            best = search.default
        return {
            "choice": best.to_json(),
            "default_ms": 1e3 * medians[search.default],
            "tuned_ms": 1e3 * medians[best],
            "wrong": wrong,
            "trials": search.trials,
        }

    def _compared(
        self, jobs: list[Job], devices: Devices
    ) -> tuple[dict[Choice, np.ndarray], dict[Choice, list[float]]]:
        """The results of kernels, and their times in turns; a kernel that fails now is left out.

        The first one is the default's, without which there is nothing to compare.
        """

        def run(device: Device) -> dict[Choice, np.ndarray]:
            return {job.id: device.run_kernel(job.path, job.names) for job in jobs}

        for attempt in (1, 2, 3):
            try:
                times = devices.in_turns(jobs, FINAL)
                results = devices.alone(run, together(jobs))
                return results, {job.id: taken for job, taken in zip(jobs, times, strict=True)}
            except DeviceFailure as error:
                self._watch.say(f"{error}; trying again")
                if attempt == 3 and len(jobs) == 1:
                    raise
        # One of them takes its session down: the default alone is what there is to believe.
        return self._compared(jobs[:1], devices)

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

    def _show(self, search: TaskSearch, devices: Devices) -> None:
        done = self._done
        spent = time.monotonic() - self._began
        default = search.seconds.get(search.default)
        self._watch.show(
            State(
                task=search.task.name,
                done=done,
                planned=self._planned,
                best_ms=search.best and 1e3 * search.best,
                default_ms=default and 1e3 * default,
                failures=dict(self._failures),
                devices=devices.states,
                eta_s=spent / max(done - self._resumed, 1) * (self._planned - done),
            )
        )
