"""Bundles built and run: by the compilers that are here, on this processor or an emulated one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rt3d_tvm.artifact.load import load

HERE = Path(__file__).parent
GCC = ("gcc",)
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wno-overlength-strings")


def zig(*options: str) -> tuple[str, ...]:
    """The C compiler of the package ziglang, or a skip."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no ziglang here, a Python package")
    return (sys.executable, "-m", "ziglang", "cc", *options)


def built(bundle: Path, program: Path, compiler: Sequence[str] = GCC, *options: str) -> Path:
    """The driver, linked with a bundle."""
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no {compiler[0]} here to build a bundle with")
    sources = [HERE / "driver.c", bundle / "model.c", bundle / "model.o", *bundle.glob("weights.S")]
    command = [*compiler, "-std=c11", "-O1", *WARNINGS, f"-I{bundle}", *options, *sources]
    done = run(*command, "-o", program, "-lm", "-lpthread")
    assert done.returncode == 0, done.stderr
    return program


def run(*command: object, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess:
    """A command's end and what it printed."""
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )


def found(done: subprocess.CompletedProcess) -> dict[str, str]:
    """The lines that the driver printed, by their names."""
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def values(manifest: dict, path: Path) -> np.ndarray:
    """A random input, in a file too."""
    x = np.random.default_rng(3).standard_normal(manifest["inputs"][0]["shape"], dtype="float32")
    x.tofile(path)
    return x


def check_bits(artifact: Path, folder: Path, driver: Path, tmp_path: Path) -> dict[str, str]:
    """The library's result is the artifact's; returns what the driver found."""
    loaded = load(artifact)
    x = values(loaded.manifest, tmp_path / "x")
    said = found(run(driver, "run", folder / "weights.bin", tmp_path / "x", tmp_path / "y"))
    y = loaded.run(x)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "y", "float32"), y.ravel())
    return said
