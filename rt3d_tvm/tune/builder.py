"""Candidates -> what a device measures, each compiled in a process that may crash or hang.

That is a library; or an object file, of which `batch_program` makes a program; or, of a kernel for
an OpenCL device of this machine, its plan as a file.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import tvm
from tvm.target import Target

from rt3d_tvm.artifact.load import available_cores
from rt3d_tvm.compile.backends import backend_of
from rt3d_tvm.compile.choices.space import built, decided
from rt3d_tvm.compile.ir.packed_call import PACKED_KERNELS
from rt3d_tvm.compile.link import export_arguments, write_library, write_object
from rt3d_tvm.compile.opencl.planner import kernel_plan
from rt3d_tvm.compile.pipeline import without_asserts
from rt3d_tvm.devices.worker import Worker, ignore_interrupts
from rt3d_tvm.errors import InputError
from schedules.decisions import Decisions
from topi_sparse.cpu.kgs_conv3d import KGSConv3d

# What the names of the files end with.
LIBRARY, OBJECT, PLAN = ".so", ".o", ".json"
# Seconds for one kernel; the first call of a process also imports TVM.
DEADLINE_S = 120.0


class Builder:
    """Compiles kernels for a target into ``folder``, as many at a time as this machine has cores.

    kind: LIBRARY, OBJECT or PLAN, which `opencl.session` runs. InputError where no linker for the
    target is installed and one is needed.
    """

    def __init__(
        self, target: Target, folder: Path, *, kind: str = LIBRARY, deadline_s: float = DEADLINE_S
    ) -> None:
        self._suffix = kind
        if kind == LIBRARY:
            export_arguments(target.host or target)
        self._target, self._folder, self._deadline_s = str(target), Path(folder), deadline_s
        self._workers = [Worker() for _ in range(available_cores())]
        self._names = itertools.count()

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()

    def build(self, kernels: Sequence[tuple[KGSConv3d, Decisions]]) -> Iterator[Path | str]:
        """For each kernel in order its file, or why there is none."""
        for first in range(0, len(kernels), len(self._workers)):
            started = []
            for worker, kernel in zip(self._workers, kernels[first:], strict=False):
                path = self._folder / f"kernel{next(self._names)}{self._suffix}"
                conv, taken = kernel
                arguments = (conv.name, conv.to_json(), taken, self._target, str(path))
                worker.start(_written, *arguments, deadline_s=self._deadline_s)
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


def _written(
    name: str, definition: str, taken: Decisions, target_json: str, path: str
) -> str | None:
    """In the worker: write the file, as its name has it; the reason where that fails."""
    ignore_interrupts()
    target = Target(json.loads(target_json))
    conv = PACKED_KERNELS[name][0].from_json(definition)
    try:
        if path.endswith(PLAN):
            plan = kernel_plan(decided(conv, taken), target)
            Path(path).write_text(plan.to_text(), encoding="utf-8")
            return None
        with target, without_asserts():
            module = built(conv, taken, target)
            library = tvm.compile(
                module, target=target, tir_pipeline=backend_of(target).tir_pipeline()
            )
        if path.endswith(OBJECT):
            write_object(library, Path(path))
        else:
            write_library(library, Path(path), target.host or target)
    except (RuntimeError, InputError, ValueError, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[-1] if lines else ''}"
    return None
