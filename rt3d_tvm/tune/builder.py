"""Candidates -> libraries, each compiled in a process that may crash or hang without harm."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import tvm
from tvm.target import Target

from rt3d_tvm.deploy import available_cores
from rt3d_tvm.errors import InputError
from rt3d_tvm.link import export_arguments
from rt3d_tvm.tune.space import built
from rt3d_tvm.worker import Worker, ignore_interrupts
from schedules.decisions import Decisions
from topi_sparse.kgs_conv3d import KGSConv3d

# Seconds for one kernel; the first call of a process also imports TVM.
DEADLINE_S = 120.0


class Builder:
    """Compiles kernels for a target into ``folder``, as many at a time as this machine has cores.

    InputError where no linker for the target is installed.
    """

    def __init__(self, target: Target, folder: Path, *, deadline_s: float = DEADLINE_S) -> None:
        export_arguments(target)
        self._target, self._folder, self._deadline_s = str(target), Path(folder), deadline_s
        self._workers = [Worker() for _ in range(available_cores())]
        self._names = itertools.count()

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()

    def build(self, kernels: Sequence[tuple[KGSConv3d, Decisions]]) -> Iterator[Path | str]:
        """For each kernel in order its library, or why there is none."""
        for first in range(0, len(kernels), len(self._workers)):
            started = []
            for worker, kernel in zip(self._workers, kernels[first:], strict=False):
                path = self._folder / f"kernel{next(self._names)}.so"
                arguments = (kernel[0].to_json(), kernel[1], self._target, str(path))
                worker.start(_built_library, *arguments, deadline_s=self._deadline_s)
                started.append((worker, path))
            for worker, path in started:
                yield self._result(worker, path)

    def _result(self, worker: Worker, path: Path) -> Path | str:
        try:
            return worker.result() or path
        except TimeoutError:
            return f"not compiled within {self._deadline_s:g} s"
        except ChildProcessError:
            return "the compiler crashed"


def _built_library(definition: str, taken: Decisions, target_json: str, path: str) -> str | None:
    """In the worker: write the library; the reason where that fails."""
    ignore_interrupts()
    target = Target(json.loads(target_json))
    try:
        with target:
            mod = built(KGSConv3d.from_json(definition), taken, target)
            library = tvm.compile(mod, target=target)
        library.export_library(path, **export_arguments(target))
    except (RuntimeError, InputError, ValueError, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[-1] if lines else ''}"
    return None
