"""What tests of searches share: a model, its rows, and kernels that misbehave."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rt3d_tvm.tune import tuner as tuner_module
from rt3d_tvm.tune.builder import Builder
from tests.two_layers import write_two_layers

# Functions of TVM's calling convention that do what kernels must not. "wait" says that it has begun
# and returns when FOLDER has no file "hold".
FAULTS = {
    "crash": "raise(11);",
    "hang": "for (;;) sleep(1);",
    "spin": "for (volatile int i = 0;; i++);",
    "nothing": "",
    "wait": 'creat("FOLDER/entered", 0600); while (!access("FOLDER/hold", F_OK)) usleep(10000);',
}


# Of what has no C library but that of a program: nothing is called.
OBJECT_FAULTS = {**FAULTS, "crash": "*(volatile int *)1 = 1;"}


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory):
    return write_two_layers(tmp_path_factory.mktemp("two_layers") / "two.onnx")


def fault(name: str, folder: Path) -> Path:
    """A library whose ``main`` is a fault."""
    path = folder / f"{name}.so"
    if not path.exists():
        code = "#include <fcntl.h>\n#include <signal.h>\n#include <unistd.h>\n"
        body = FAULTS[name].replace("FOLDER", str(folder))
        code += f"int __tvm_ffi_main(void *a, void *b, int c, void *d) {{ {body} "
        (folder / f"{name}.c").write_text(f"{code} return 0; }}\n")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, folder / f"{name}.c"], check=True)
    return path


def object_fault(name: str, folder: Path) -> Path:
    """The same as an object file for AArch64."""
    path = folder / f"{name}.o"
    if not path.exists():
        code = "int __tvm_ffi_main(void *a, void *b, int c, void *d) { "
        (folder / f"{name}.c").write_text(f"{code}{OBJECT_FAULTS[name]} return 0; }}\n")
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
        options = ["-c", "-O1", "-fno-sanitize=undefined", folder / f"{name}.c", "-o", path]
        subprocess.run([*zig, *options], check=True)
    return path


@pytest.fixture
def sabotaged(monkeypatch, tmp_path):
    """Call with {which kernel of a search, counted from 0: fault}: these are built so, always."""

    def sabotage(faults: dict[int, str]) -> None:
        seen: dict[tuple, int] = {}

        class Saboteur(Builder):
            def build(self, kernels):
                for kernel, path in zip(kernels, super().build(kernels), strict=True):
                    number = seen.setdefault(kernel, len(seen))
                    if number in faults and isinstance(path, Path):
                        made = object_fault if path.suffix == ".o" else fault
                        path.write_bytes(made(faults[number], tmp_path).read_bytes())
                    yield path

        monkeypatch.setattr(tuner_module, "Builder", Saboteur)

    return sabotage


def rows(work: Path) -> list[dict]:
    return [json.loads(line) for line in (work / "trials.jsonl").read_text().splitlines()]


def trials(work: Path) -> list[dict]:
    return [row for row in rows(work) if "final" not in row]
