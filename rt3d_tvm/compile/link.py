"""Linking a compiled model as model.so, for this machine's processor or another."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from tvm.runtime import Executable
    from tvm.target import Target

GNU_LINKER = "aarch64-linux-gnu-g++"
# The oldest C library that a current Debian, Ubuntu or phone userland still has.
ZIG_TRIPLE = "aarch64-linux-gnu.2.28"
# This machine's compilers: the first that is there, unless the first variable that is set has one.
_COMPILERS = ("g++", "gcc", "clang++", "clang", "c++", "cc")
_HOST_VARIABLES, _NDK_VARIABLES = ("CXX", "CC"), ("TVM_NDK_CC",)
# Of prctl: the signal that a process gets when the one that started it ends.
_PR_SET_PDEATHSIG = 1


# TVM's name of the object file with the code of the kernels; what else it links are the VM's lists.
_KERNELS = "lib0.o"


def write_library(
    module: Executable, path: Path, target: Target, *, kernels: Path | None = None
) -> None:
    """Write a compiled module as the shared library ``path``, for ``target``.

    kernels: where to keep the object file of its kernels. InputError where no linker is there, and
    with what the linker or the disk says where it fails.
    """
    arguments = export_arguments(target)
    objects = path.with_name(f"{path.name}.objects")
    objects.mkdir()

    def export() -> None:
        module.export_library(str(path), workspace_dir=str(objects), **arguments)

    reason = _why_failed(export)
    if reason is None and kernels is not None:
        (objects / _KERNELS).rename(kernels)
    shutil.rmtree(objects)
    if reason is not None:
        raise InputError(f"{path.name} cannot be made: {reason}")


def write_object(module: Executable, path: Path) -> None:
    """Write the kernels of a compiled module as one object file, without a linker.

    InputError with what LLVM or the disk says where it fails.
    """
    objects = path.with_name(f"{path.name}.objects")
    objects.mkdir()

    def keep(output: str, *_: object, **__: object) -> None:
        Path(output).touch()

    def export() -> None:
        module.export_library(str(path), workspace_dir=str(objects), fcompile=keep)

    reason = _why_failed(export)
    if reason is None:
        (objects / _KERNELS).rename(path)
    shutil.rmtree(objects)
    if reason is not None:
        raise InputError(f"{path.name} cannot be made: {reason}")


def export_arguments(target: Target) -> dict[str, Callable]:
    """Arguments for export_library that link for ``target``, on this machine or for another.

    InputError where no linker for the target is there.
    """
    machine = platform.machine()
    triple = str(target.attrs.get("mtriple", machine))
    if triple.partition("-")[0] == machine:
        command = host_linker()
        if command is None:
            raise InputError("no C compiler is installed to link model.so with: gcc will do")
    elif not triple.startswith("aarch64"):
        raise InputError(f"target {triple} cannot be linked on {machine}: compile on that machine")
    else:
        command = cross_linker()
        if command is None:
            raise InputError(
                f"target {triple}: no cross-linker is installed; {GNU_LINKER} (Debian's "
                "g++-aarch64-linux-gnu), the Android NDK's clang++ named in TVM_NDK_CC, or the "
                "Python package ziglang will do"
            )
    return {"fcompile": link_with(command)}


def host_linker() -> list[str] | None:
    """The command that links for this machine; None where there is none.

    InputError where CXX or CC names a program that is not there.
    """
    if command := _named_in(_HOST_VARIABLES):
        return command
    return next(([found] for name in _COMPILERS if (found := shutil.which(name))), None)


def cross_linker() -> list[str] | None:
    """The command that links AArch64 objects here, the first that is there of three.

    InputError where TVM_NDK_CC names a program that is not there.
    """
    if command := _named_in(_NDK_VARIABLES):
        return command
    if gnu := shutil.which(GNU_LINKER):
        return [gnu]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "c++", "-target", ZIG_TRIPLE]
    return None


def _named_in(variables: Sequence[str]) -> list[str] | None:
    """The command, maybe with options, in the first of the environment's variables that is set."""
    for variable in variables:
        text = os.environ.get(variable, "").strip()
        if not text:
            continue
        try:
            command = [text] if shutil.which(text) else shlex.split(text)
        except ValueError as error:
            raise InputError(f"{variable} is {text}: {error}") from error
        if shutil.which(command[0]) is None:
            raise InputError(
                f"{variable} is {text}: there is no such program to link model.so with"
            )
        return command
    return None


def link_with(command: list[str]) -> Callable:
    """What links with this command, as export_library calls it; InputError where it fails."""

    def link(output: str, objects: Sequence[str], options: Sequence[str] = (), **_: object) -> None:
        arguments = [*command, "-shared", "-fPIC", "-o", output, *objects, *options]
        try:
            done = subprocess.run(
                arguments,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise InputError(f"{command[0]} cannot be run: {error.strerror}") from error
        if done.returncode:
            said = _last_lines(done.stdout)
            raise InputError(f"{command[0]} failed: {said or _status(done.returncode)}")
        if not Path(output).is_file():
            raise InputError(f"{command[0]} failed: it ended well and wrote nothing")

    return link


def _last_lines(text: str) -> str:
    """The end of what a program says, where the reason stands, as one line."""
    return " / ".join([line.strip() for line in text.splitlines() if line.strip()][-3:])


def _status(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"status {code}"


def _why_failed(work: Callable[[], object]) -> str | None:
    """Do something in a child, because LLVM ends the process that it cannot write an object in.

    Returns why it failed: the last that the child said. None where all went well.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of the locks that other threads may hold: this one needs none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _work_and_exit(work, writer)
    os.close(writer)
    status = None
    try:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as pipe:
            said = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        if status is None:  # interrupted
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if status == 0:
        return None
    return _last_lines(said) or f"the compiler ended with {_status(status)}"


def _work_and_exit(work: Callable[[], object], writer: int) -> NoReturn:
    """In the child: nothing of the parent's is to run here, and nothing to outlive it."""
    status = 1
    try:
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(writer, 2)  # where LLVM says what it ends with
        work()
        status = 0
    except (InputError, RuntimeError, ValueError, OSError) as error:
        os.write(writer, f"{error}\n".encode())
    finally:
        os._exit(status)
