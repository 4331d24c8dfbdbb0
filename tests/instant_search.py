"""A search on a device and with a compiler that take no time: for what ends a search."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.tune import verified as verified_module
from rt3d_tvm.tune.fleet import Devices
from rt3d_tvm.tune.search import TaskSearch
from rt3d_tvm.tune.tasks import extract_tasks
from rt3d_tvm.tune.trials import Tuner, TuningReport
from rt3d_tvm.tune.watch import Watch


class Instant:
    """A device that computes nothing, and takes as long as is written in a kernel's file."""

    address = "instant"
    put = allocate = drop = close = interrupt = lambda self, *_: None

    def time_kernels(self, kernels: Sequence, **_how: int) -> list[list[float]]:
        time.sleep(0.002)
        return [[float(path.read_text())] for path, _ in kernels]

    def run_kernel(self, path: Path, names: tuple[str, ...]) -> np.ndarray:
        return np.zeros(1)


class NoCompiler:
    """Instead of libraries the seconds that a kernel takes: a task's default takes the longest."""

    def __init__(self, folder: Path, defaults: Sequence) -> None:
        self._folder, self._defaults, self._count = folder, defaults, 0

    def build(self, kernels: Sequence) -> Iterator[Path]:
        for kernel in kernels:
            self._count += 1
            path = self._folder / f"{os.getpid()}-{self._count}.so"
            path.write_text("1e-3" if kernel in self._defaults else "0.9e-3")
            yield path


class InstantSearch:
    """A search of a model; to be used in a process of its own, where no result is looked at."""

    def __init__(self, onnx_path: Path) -> None:
        verified_module.why_wrong = lambda *_: None
        self._target = make_target("host")
        self._tasks = extract_tasks(lower(import_onnx(onnx_path), Lowering(target=self._target)))

    def run(self, work: Path, *, trials: int, watch: Watch) -> TuningReport:
        """Search in ``work``, or go on there."""
        session = {"model": "of this", "versions": {}}
        searches = [TaskSearch(task, self._target, heights=None) for task in self._tasks]
        defaults = [search.kernel(search.default) for search in searches]
        with (
            Tuner(self._target, self._tasks, work=work, session=session, watch=watch) as tuner,
            Devices(Instant, 1, say=watch.say) as devices,
        ):
            return tuner.run(NoCompiler(work.parent, defaults), devices, trials=trials)
