"""Static programs for other machines, by the Python package ziglang and musl."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rt3d_tvm.errors import InputError
from rt3d_tvm.package.extras import extra_of

_OPTIONS = (
    *("-static", "-std=c11", "-O2", "-s", "-I."),
    # For kernels whose pages are of 16 KiB, and those that want no stack that is executable.
    *("-Wl,-z,max-page-size=16384", "-Wl,-z,noexecstack"),
)


def check_linker() -> None:
    """InputError where the package that links is not installed."""
    if importlib.util.find_spec("ziglang") is None:
        raise InputError(
            "programs are linked by the Python package ziglang, which is not installed: "
            f"{extra_of('ziglang').remedy}"
        )


def link_static(folder: Path, program: str, sources: Sequence[str], *, machine: str) -> None:
    """Link sources and objects in a folder as one static file there, without symbols.

    machine: aarch64 or x86_64, with Linux or Android. InputError with what the linker says.
    """
    command = [
        *(sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-musl", *_OPTIONS),
        *(*sources, "-lm", "-o", program),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " / ".join(line.strip() for line in done.stderr.splitlines()[-3:])
        raise InputError(f"program {program} cannot be linked: {said}")
