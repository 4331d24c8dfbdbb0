"""The end of a search: its best measured again beside the default, and checked against it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from rt3d_tvm.compile.choices.layer import Choice
from rt3d_tvm.devices.device import DeviceFailure
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune.builder import Builder
from rt3d_tvm.tune.check import random_inputs, why_wrong
from rt3d_tvm.tune.jobs import search_job
from rt3d_tvm.tune.measuring import Job, Measuring, Timing
from rt3d_tvm.tune.search import TaskSearch
from rt3d_tvm.tune.steadiness import disturbance

# How many of the best are measured again beside the default, how, and by how much one of them has
# to be faster to be taken.
BEST, FINAL, MARGIN = 3, Timing(turns=7, repeats=2, min_repeat_ms=10), 1.02


def verified(
    search: TaskSearch, builder: Builder, devices: Measuring, say: Callable[[str], None]
) -> dict:
    """The best choices of a search beside its default: times in turns, and what they compute.

    InputError where the default itself does not compile or is wrong.
    """
    say(f"verify {search.task.name}")
    candidates = [search.default, *search.fastest(BEST)]
    libraries = builder.build([search.kernel(choice) for choice in candidates])
    jobs = []
    for choice, library in zip(candidates, libraries, strict=True):
        if isinstance(library, Path):
            jobs.append(search_job(search, choice, library))
        elif choice == search.default:
            raise InputError(f"{search.task.name}: its default does not compile: {library}")
    results, seconds = _compared(jobs, devices, say)
    values = random_inputs(search.task.layer)
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
            say(f"{search.task.name}: a fast choice is wrong: {reason}")
    best = min(medians, key=medians.__getitem__)
    if medians[search.default] < MARGIN * medians[best]:
        best = search.default
    first = search.seconds.get(search.default)
    doubt = disturbance(first, seconds[search.default], seconds[best])
    if doubt is not None:
        say(f"{search.task.name}: measured on a disturbed machine: {doubt}")
    return {
        "choice": best.to_json(),
        "default_ms": 1e3 * medians[search.default],
        "tuned_ms": 1e3 * medians[best],
        "wrong": wrong,
        "doubt": doubt,
        "trials": search.trials,
    }


def _compared(
    jobs: list[Job], devices: Measuring, say: Callable[[str], None]
) -> tuple[Mapping[Choice, np.ndarray], dict[Choice, list[float]]]:
    """The results of kernels, and their times in turns; a kernel that fails now is left out.

    The first one is the default's, without which there is nothing to compare.
    """

    for attempt in (1, 2, 3):
        try:
            times = devices.in_turns(jobs, FINAL)
            seconds = {job.id: taken for job, taken in zip(jobs, times, strict=True) if taken}
            return devices.results([job for job in jobs if job.id in seconds]), seconds
        except DeviceFailure as error:
            say(f"{error}; trying again")
            if attempt == 3 and len(jobs) == 1:
                raise
    # One of them takes its session down: the default alone is what there is to believe.
    return _compared(jobs[:1], devices, say)
