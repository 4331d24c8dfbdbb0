"""Linking model.so for a processor that is not this machine's."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from tvm.target import Target

GNU_LINKER = "aarch64-linux-gnu-g++"
# The oldest C library that a current Debian, Ubuntu or phone userland still has.
ZIG_TRIPLE = "aarch64-linux-gnu.2.28"


def export_arguments(target: Target) -> dict[str, Callable]:
    """Arguments for export_library that link for ``target``: none where this machine's gcc will do.

    InputError where no linker for the target is installed.
    """
    from tvm.support.cc import get_cc

    machine = platform.machine()
    triple = str(target.attrs.get("mtriple", machine))
    if triple.partition("-")[0] == machine:
        if get_cc() is None:
            raise InputError("no C compiler is installed to link model.so with: gcc will do")
        return {}
    if not triple.startswith("aarch64"):
        raise InputError(f"target {triple} cannot be linked on {machine}: compile on that machine")
    command = cross_linker()
    if command is None:
        raise InputError(
            f"target {triple}: no cross-linker is installed; {GNU_LINKER} (Debian's "
            "g++-aarch64-linux-gnu), the Android NDK's clang++ named in TVM_NDK_CC, or the Python "
            "package ziglang will do"
        )
    return {"fcompile": _linked_by(command)}


def cross_linker() -> list[str] | None:
    """The command that links AArch64 objects here, the first that is there of three."""
    if ndk := os.environ.get("TVM_NDK_CC"):
        return [ndk]
    if gnu := shutil.which(GNU_LINKER):
        return [gnu]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++", "-target", ZIG_TRIPLE]
    return None


def _linked_by(command: list[str]) -> Callable:
    def link(output: str, objects: Sequence[str], options: Sequence[str] = (), **_: object) -> None:
        arguments = [*command, "-shared", "-fPIC", "-o", output, *objects, *options]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"{command[0]} failed: {done.stderr.strip() or done.returncode}")

    return link
