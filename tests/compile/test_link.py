"""Linking: which program, what is said where it fails, and LLVM's end in a child."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import tvm
from tvm import te
from tvm.target import Target

from rt3d_tvm.compile import link
from rt3d_tvm.compile.link import cross_linker, export_arguments, host_linker, write_library
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.errors import InputError


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Make a program of these lines, the only one that is found by its name."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("TVM_NDK_CC", raising=False)

    def make(name, *lines):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(("#!/bin/sh", *lines, "")))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
        return path

    return make


def compiled():
    x = te.placeholder((16,), name="x")
    y = te.compute((16,), lambda i: x[i] + 1, name="y")
    return tvm.compile(tvm.IRModule({"main": te.create_prim_func([x, y])}), target="llvm")


def test_the_variables_come_first_and_may_have_options(program, monkeypatch):
    program("mycc")
    assert Path(host_linker()[0]).name in {"g++", "gcc", "clang++", "clang", "c++", "cc"}
    monkeypatch.setenv("CC", "mycc")
    assert host_linker() == ["mycc"]
    monkeypatch.setenv("CXX", "mycc -O1 '-Wl,-z,now'")
    assert host_linker() == ["mycc", "-O1", "-Wl,-z,now"]
    monkeypatch.setenv("TVM_NDK_CC", "mycc --target=aarch64-linux-android29")
    assert cross_linker() == ["mycc", "--target=aarch64-linux-android29"]


@pytest.mark.parametrize(
    ("variable", "target"), [("CXX", "host"), ("CC", "host"), ("TVM_NDK_CC", "arm64")]
)
@pytest.mark.parametrize("kind", ["not there", "a folder", "no program", "a quote"])
def test_a_linker_that_a_variable_names_and_that_is_none_is_refused(
    program, monkeypatch, tmp_path, variable, target, kind
):
    if platform.machine() != "x86_64":
        pytest.skip("arm64 is another processor's on x86-64 only")
    path = tmp_path / "no-such-g++"
    if kind == "a folder":
        path.mkdir()
    elif kind == "no program":
        path.write_text("text")
    monkeypatch.setenv(variable, f"{path} 'x" if kind == "a quote" else str(path))
    with pytest.raises(InputError, match=f"{variable} is .*no-such-g"):
        export_arguments(make_target(target))


def test_a_machine_without_a_linker_is_told_which(monkeypatch, tmp_path):
    for variable in ("CXX", "CC", "TVM_NDK_CC"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(link.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="no C compiler is installed"):
        export_arguments(Target({"kind": "llvm"}))
    if platform.machine() == "x86_64":
        with pytest.raises(InputError, match="no cross-linker is installed; aarch64-linux-gnu"):
            export_arguments(make_target("arm64"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("echo first; echo 'ld: cannot find -lfoo' >&2", "exit 1"), "failed: first / ld: cannot"),
        (("exit 3",), "bad failed: status 3"),
        (("kill -9 $$",), "bad failed: signal 9"),
        (("exit 0",), "bad failed: it ended well and wrote nothing"),
    ],
)
def test_a_linker_that_fails_says_why(program, monkeypatch, tmp_path, lines, message):
    monkeypatch.setenv("CXX", str(program("bad", *lines)))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=message):
        write_library(compiled(), tmp_path / "out" / "model.so", Target({"kind": "llvm"}))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_library_is_written_alone(tmp_path):
    write_library(compiled(), tmp_path / "model.so", Target({"kind": "llvm"}))
    assert [path.name for path in tmp_path.iterdir()] == ["model.so"]
    assert tvm.runtime.load_module(str(tmp_path / "model.so")).implements_function("main")


def test_llvm_that_ends_its_process_ends_a_child(tmp_path):
    """It does where it cannot write an object: a limit on files' sizes stands for a full disk."""
    start = f"""
import resource, sys
from pathlib import Path
from tvm.target import Target
from rt3d_tvm.compile.link import write_library
from rt3d_tvm.errors import InputError
from {__name__} import compiled
module = compiled()
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    write_library(module, Path(sys.argv[1], "model.so"), Target({{"kind": "llvm"}}))
except InputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", start, tmp_path], capture_output=True, text=True, check=False
    )
    assert "model.so cannot be made: LLVM ERROR: " in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []
