"""What a device tells only to code of ours that runs on it: its memory, its GPU's types.

``load`` brings a library to the device and loads it there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tvm
from tvm import tirx
from tvm.script import tirx as T
from tvm.target import Target

from rt3d_tvm.compile.link import export_arguments, write_library
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.devices.processor import Processor
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.staging import scratch_folder

# The least that code for each architecture asks for.
_BASELINE = {"aarch64": "arm64", "x86_64": "x86-64-avx2"}
# struct sysinfo of 64-bit Linux: seconds, three loads, memory, five more sizes, processes, unit.
_SYSINFO = "<q3Q6QHxx4x2QI"


def memory(
    found: Processor, load: Callable[[Path], tvm.runtime.Module], cores: tvm.runtime.Device
) -> int | None:
    """Bytes of memory of the device; None where code for its ``cores`` cannot be linked here."""

    @T.prim_func
    def main(handle: T.handle):
        buffer = T.match_buffer(handle, (256,), "uint8")
        buffer[255] = T.Cast("uint8", T.call_extern("int32", "sysinfo", buffer.data))

    if (library := _library(main, found, load)) is None:
        return None
    answer = tvm.runtime.empty((256,), "uint8", cores)
    library["main"](answer)
    fields = struct.unpack_from(_SYSINFO, answer.numpy().tobytes())
    return fields[4] * fields[-1]


def computes(
    dtype: str,
    found: Processor,
    load: Callable[[Path], tvm.runtime.Module],
    gpu: tvm.runtime.Device,
) -> bool:
    """Whether a kernel in that type gets to the device's GPU, through its compiler, and runs.

    By trial: TVM's runtime tells nothing of what a driver can do.
    """

    @T.prim_func
    def main(handle: T.handle):
        x = T.match_buffer(handle, (1,), dtype)
        for i in T.thread_binding(1, thread="blockIdx.x"):
            x[i] = x[i] + T.Cast(dtype, 1)

    try:
        if (library := _library(main, found, load, on_gpu=True)) is None:
            return False
        x = tvm.runtime.empty((1,), dtype, gpu).copyfrom(np.ones(1, dtype))
        library["main"](x)
        return x.numpy()[0] == 2
    except tvm.error.RPCError:
        return False


def _library(
    main: tirx.PrimFunc,
    found: Processor,
    load: Callable[[Path], tvm.runtime.Module],
    *,
    on_gpu: bool = False,
) -> tvm.runtime.Module | None:
    """A function of ours, loaded on the device; None where it cannot be linked here."""
    if found.machine not in _BASELINE:
        return None
    host = make_target(_BASELINE[found.machine])
    try:
        export_arguments(host)
    except InputError:
        return None
    target = Target({"kind": "opencl"}, host=host) if on_gpu else host
    with scratch_folder("rt3d-probe-") as folder, target:
        path = folder / "probe.so"
        module = tvm.IRModule({"main": main.with_attr("global_symbol", "main")})
        write_library(tvm.compile(module, target=target), path, host)
        return load(path)
