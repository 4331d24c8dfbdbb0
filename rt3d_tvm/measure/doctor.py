"""Is this machine set up? One line and one remedy for each thing that the flow needs.

Nothing of TVM or torch is imported here: what may crash is tried in a child process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from rt3d_tvm.compile.link import cross_linker
from rt3d_tvm.errors import InputError
from rt3d_tvm.package.extras import EXTRAS

PYTHON = ((3, 10), (3, 13))
PINS = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}
BASE = ("numpy", "rich", "cloudpickle", "psutil", "tornado")
CHILD_TIMEOUT_S = 120

# Crashes the process with an apache-tvm-ffi that does not fit, and MetaSchedule with it.
_SAVE_JSON = 'import tvm; tvm.ir.save_json(tvm.tirx.IntImm("int32", 3))'
_LINK = """
from rt3d_tvm.compile.link import host_linker, link_with
from rt3d_tvm.files.staging import scratch_folder
command = host_linker() or []
print(" ".join(command))
with scratch_folder("rt3d-doctor-") as folder:
    source = folder / "probe.c"
    source.write_text("int probe(void) { return 3; }")
    link_with(command or ["cc"])(str(folder / "probe.so"), [str(source)])
"""
_OPENCL = """
from rt3d_tvm.artifact.opencl.drivers import describe, devices
found = [describe(device) for device in devices()]
print("; ".join(
    f"{device}: {device.broken or ('fp32 and fp16' if device.half else 'fp32')}" for device in found
))
"""
_THREADS = 'import tvm; print(tvm.get_global_func("runtime.NumThreads")())'

_EIGHT_BIT = """
from rt3d_tvm.compile.targets import make_target
from topi_sparse.cpu.dot_unit import dot_unit
unit = dot_unit(make_target("host"))
print("none" if unit is None else unit.instruction)
"""
_DOT_PRODUCTS = ("vpdpbusd", "sdot")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding; ``remedy`` is empty where all is well."""

    name: str
    ok: bool
    required: bool
    found: str
    remedy: str = ""

    @property
    def state(self) -> str:
        if self.ok:
            return "ok"
        return "FAIL" if self.required else "optional"


def diagnose() -> list[Check]:
    """Look at everything once; takes a few seconds. Nothing is installed or changed."""
    return [check for look in _LOOKS for check in look()]


def healthy(checks: list[Check]) -> bool:
    """Whether everything that is required is there."""
    return all(check.ok for check in checks if check.required)


def _python() -> list[Check]:
    low, high = (".".join(map(str, bound)) for bound in PYTHON)
    return [
        _check(
            "python",
            PYTHON[0] <= sys.version_info[:2] <= PYTHON[1],
            found=".".join(map(str, sys.version_info[:3])),
            remedy=f"use Python {low} to {high}: make PYTHON=python{high}",
        )
    ]


def _pins() -> list[Check]:
    return [
        _check(
            name,
            _installed(name) == pin,
            found=_installed(name) or "not installed",
            remedy=f"pip install {name}=={pin}",
        )
        for name, pin in PINS.items()
    ]


def _save_json() -> list[Check]:
    outcome = _in_child(_SAVE_JSON)
    remedy = "pip install " + " ".join(f"{name}=={pin}" for name, pin in PINS.items())
    return [
        _check(
            "tvm self-test", outcome.ok, found=outcome.ending or "save_json works", remedy=remedy
        )
    ]


def _linker() -> list[Check]:
    outcome = _in_child(_LINK)
    found = outcome.output or "no C compiler"
    return [
        _check(
            "C compiler",
            outcome.ok,
            found=f"{found}: {outcome.ending}" if outcome.ending else found,
            remedy="install gcc, or name a compiler in CXX; TVM links model.so with it",
        )
    ]


def _threads() -> list[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    outcome = _in_child(_THREADS)
    found = f"TVM starts {outcome.output} of {cores}" if outcome.ok else outcome.ending
    return [
        _check(
            "threads",
            outcome.ok and outcome.output == str(cores),
            required=False,
            found=found,
            remedy=f"rt3d sets them itself; for your own programs: export TVM_NUM_THREADS={cores}",
        )
    ]


def _eight_bit() -> list[Check]:
    outcome = _in_child(_EIGHT_BIT)
    return [
        _check(
            "8-bit products",
            outcome.ok and outcome.output in _DOT_PRODUCTS,
            required=False,
            found=outcome.output if outcome.ok else outcome.ending,
            remedy="8-bit models run; a processor with VNNI (x86-64) or dot products (AArch64) "
            "takes fewer instructions",
        )
    ]


def _base() -> list[Check]:
    return [
        _check(
            name,
            _installed(name) is not None,
            found=_installed(name) or "not installed",
            remedy=f"pip install {name}",
        )
        for name in BASE
    ]


def _extras() -> list[Check]:
    """What a base install leaves out, by extra: nothing is wrong where it is not there."""
    checks = []
    for extra in EXTRAS:
        version_there = next(filter(None, map(_installed, extra.distributions)), None)
        checks.append(
            _check(
                extra.package,
                version_there is not None,
                required=False,
                found=version_there or f"not installed: of the extra {extra.extra}",
                remedy=f"{extra.remedy} (for rt3d {extra.commands})",
            )
        )
    return checks


def _opencl() -> list[Check]:
    if _installed("pyopencl") is None:
        found, ok = "pyopencl is not installed", False
    else:
        outcome = _in_child(_OPENCL)
        found, ok = outcome.ending or outcome.output or "no device", bool(outcome.output)
    return [
        _check(
            "OpenCL",
            ok,
            required=False,
            found=found,
            remedy="pip install 'rt3d-tvm[opencl]' intel-opencl-rt intel-cmplr-lib-rt (to run GPU "
            "code here)",
        )
    ]


def _emulation() -> list[Check]:
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    try:
        linker, missing = cross_linker(), "not found"
    except InputError as error:
        linker, missing = None, str(error)
    return [
        _check(
            "qemu-aarch64",
            emulator is not None,
            required=False,
            found=emulator or "not found",
            remedy="apt install qemu-user (to run phone CPU code here)",
        ),
        _check(
            "arm64 linker",
            linker is not None,
            required=False,
            found=" ".join(linker) if linker else missing,
            remedy="apt install g++-aarch64-linux-gnu, or pip install ziglang (for arm64)",
        ),
    ]


_LOOKS: tuple[Callable[[], list[Check]], ...] = (
    _python,
    _pins,
    _save_json,
    _linker,
    _threads,
    _eight_bit,
    _base,
    _extras,
    _opencl,
    _emulation,
)


def _check(name: str, ok: bool, *, found: str, remedy: str, required: bool = True) -> Check:
    return Check(name=name, ok=ok, required=required, found=found, remedy="" if ok else remedy)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class _Outcome:
    """How a child process ended (empty if well) and the first line that it printed."""

    ending: str
    output: str

    @property
    def ok(self) -> bool:
        return not self.ending


def _in_child(program: str) -> _Outcome:
    try:
        child = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=CHILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _Outcome(f"no answer within {CHILD_TIMEOUT_S} s", "")
    output = (child.stdout.strip().splitlines() or [""])[0]
    if child.returncode < 0:
        return _Outcome(f"crashes with {signal.Signals(-child.returncode).name}", output)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["exit status 1"])[-1]
        return _Outcome(last[:200], output)
    return _Outcome("", output)
