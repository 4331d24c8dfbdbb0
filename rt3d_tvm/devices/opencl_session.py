"""The side of a session with an OpenCL device of this machine: runs in a process that may be ended.

The functions are those of remote_session with which kernels are measured; a kernel is the plan of
one (`planner.kernel_plan`) in a file. One process holds one device, as this module's state.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.artifact.opencl.drivers import choose_device, load_pyopencl
from rt3d_tvm.artifact.opencl.executor import Executor
from rt3d_tvm.artifact.opencl.plan import Plan
from rt3d_tvm.devices.processor import read_temperatures

if TYPE_CHECKING:
    import pyopencl


@dataclass
class _Session:
    """What this process holds on the device: arrays by name, with their shape and type."""

    device: pyopencl.Device
    context: pyopencl.Context
    queue: pyopencl.CommandQueue
    buffers: dict[str, pyopencl.Buffer] = field(default_factory=dict)
    types: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)


_held: _Session | None = None


def connect(wanted: str | None, half: bool) -> str:
    """Take a device, as `choose_device` finds it; its name."""
    global _held
    cl = load_pyopencl()
    device = choose_device(wanted, half=half)
    context = cl.Context([device])
    _held = _Session(device, context, cl.CommandQueue(context))
    return device.name.strip()


def temperatures() -> dict[str, float]:
    """This machine's temperatures."""
    return read_temperatures(_read)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A driver's own exceptions as those that `remote_session.guarded` tells of."""
    try:
        yield
    except load_pyopencl().Error as error:
        raise RuntimeError(str(error)) from error


@_told()
def put(name: str, value: np.ndarray) -> None:
    """An array on the device, for `time_kernels` to name."""
    allocate(name, value.shape, str(value.dtype))
    if value.nbytes:
        load_pyopencl().enqueue_copy(_held.queue, _held.buffers[name], np.ascontiguousarray(value))


@_told()
def allocate(name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Room for an array on the device, for `time_kernels` to name."""
    cl, size = load_pyopencl(), math.prod(shape) * np.dtype(dtype).itemsize
    _held.buffers[name] = cl.Buffer(_held.context, cl.mem_flags.READ_WRITE, max(size, 1))
    _held.types[name] = (tuple(shape), dtype)


def drop(names: Collection[str]) -> None:
    """Free the arrays of those names."""
    for name in names:
        _held.buffers.pop(name, None)
        _held.types.pop(name, None)


@_told()
def time_kernels(
    kernels: Sequence[tuple[Path, tuple[str, ...]]], *, turns: int, repeats: int, min_repeat_ms: int
) -> list[list[float]]:
    """Seconds of each run of each kernel, by the device's clock, the kernels in turns.

    A kernel takes the arrays of those names, its result as the last. A repeat is as many runs as
    take ``min_repeat_ms``, and counts as their mean.
    """
    executors = [_loaded(path, names) for path, names in kernels]
    runs = []
    for executor in executors:
        executor.launch_s()  # touches every page
        runs.append(max(math.ceil(1e-3 * min_repeat_ms / sum(executor.launch_s())), 1))
    seconds: list[list[float]] = [[] for _ in executors]
    for _ in range(turns):
        for taken, executor, count in zip(seconds, executors, runs, strict=True):
            for _ in range(repeats):
                taken.append(sum(sum(executor.launch_s()) for _ in range(count)) / count)
    return seconds


@_told()
def run_kernel(path: Path, names: tuple[str, ...]) -> np.ndarray:
    """The last array after a run of a kernel, which starts out as NaN."""
    cl, executor, result = load_pyopencl(), _loaded(path, names), names[-1]
    shape, dtype = _held.types[result]
    value = np.full(shape, np.nan, dtype)
    cl.enqueue_copy(_held.queue, _held.buffers[result], value)
    executor.launch_s()
    cl.enqueue_copy(_held.queue, value, _held.buffers[result])
    return value


def _loaded(path: Path, names: tuple[str, ...]) -> Executor:
    """A kernel, compiled, on the arrays of those names."""
    plan = Plan.from_text(Path(path).read_text(encoding="utf-8"))
    *taken, result = (_held.buffers[name] for name in names)
    given = {**dict(enumerate(taken)), plan.outputs[0]: result}
    return Executor(plan, [], _held.device, context=_held.context, given=given)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
