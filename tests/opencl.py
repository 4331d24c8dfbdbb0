"""Kernels on an OpenCL device of this machine, as tests run them."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tvm

from rt3d_tvm.artifact.opencl.drivers import choose_device, load_pyopencl
from rt3d_tvm.artifact.opencl.executor import Executor
from rt3d_tvm.artifact.opencl.plan import Plan
from rt3d_tvm.compile.opencl.planner import kernel_plan
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.errors import InputError

# Thousands of small kernels would fill pyopencl's cache on disk.
os.environ["PYOPENCL_NO_CACHE"] = "1"
_POCL = Path(__file__).parents[1] / "scripts" / "phone" / "pocl.sh"


@functools.cache
def device(*, half: bool, name: str | None = None):
    """A device that computes in float16, or in float32; the test is skipped where none is."""
    try:
        return choose_device(name, half=half)
    except InputError as error:
        pytest.skip(str(error))


def unpacked_pocl() -> dict[str, str]:
    """The environment in which PoCL, which has no float16, is the only driver that a loader finds.

    The test is skipped where scripts/phone/pocl.sh cannot unpack it.
    """
    # Downloads some 55 MB, once.
    printed = subprocess.run([_POCL], capture_output=True, text=True, timeout=600)
    if printed.returncode:
        pytest.skip(printed.stderr.strip())
    exported = f"{printed.stdout}\nenv -0"
    lines = subprocess.run(["bash", "-c", exported], capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in lines.stdout.split("\0") if line)


def plan_of(function: tvm.tirx.PrimFunc, target: str = "opencl") -> Plan:
    """The plan of a function that takes tensors and has its result as the last parameter."""
    return kernel_plan(function, make_target(target))


def run_on_opencl(
    function: tvm.tirx.PrimFunc, arrays: list[np.ndarray], target: str = "opencl"
) -> np.ndarray:
    """Schedule by the table, compile, run; the result starts out as NaN."""
    plan = plan_of(function, target)
    executor = Executor(plan, [], device(half=plan.half))
    result = function.params[-1].ty
    shape, dtype = tuple(int(e) for e in result.shape), str(result.dtype.dtype)
    cl = load_pyopencl()
    nothing = np.full(shape, np.nan, dtype)
    for output in plan.outputs:
        cl.enqueue_copy(executor.queue, executor.buffers[output], nothing)
    return executor.run(*arrays, outputs=[(shape, dtype)])[0]
