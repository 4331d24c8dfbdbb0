"""What tuning gains, in a process of its own: TVM makes its threads once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rt3d_tvm.artifact.load import available_cores
from tests.two_layers import write_two_layers

ROOT = Path(__file__).parents[2]
# Something runs as soon as the script compiles, and TVM makes its threads: half the cores.
PARALLEL_COMPILER = """
import sys, tvm
sys.path.insert(0, "scripts/kernels")
import tuned_gain
compile_onnx = tuned_gain.compile_onnx
def compiled(*arguments, **how):
    tvm.get_global_func("runtime.NumThreads")()
    return compile_onnx(*arguments, **how)
tuned_gain.compile_onnx = compiled
sys.exit(tuned_gain.main())
"""


@pytest.mark.parametrize("threads", [None, 1])
def test_it_runs_and_says_the_threads_it_is_told_to(tmp_path, threads):
    onnx_path, out = write_two_layers(tmp_path / "two.onnx"), tmp_path / "out"
    arguments = [str(onnx_path), "--out", str(out), "--runs", "2"]
    arguments += [] if threads is None else ["--threads", str(threads)]
    done = subprocess.run(
        [sys.executable, "-c", PARALLEL_COMPILER, *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted = threads or available_cores()
    assert f"{wanted} threads, medians of 2 runs in turns" in done.stdout
    (row,) = json.loads((out / "gain.json").read_text())
    assert row["threads"] == wanted
    assert [len(samples) for samples in row["samples_ms"]] == [2, 2]
    assert row["max_rel_error"] <= 1e-4


def test_threads_beyond_the_cores_are_refused(script, tmp_path, monkeypatch, capsys):
    gain = script("kernels/tuned_gain.py")
    arguments = [str(tmp_path / "x.onnx"), "--out", str(tmp_path / "out"), "--threads", "9999"]
    monkeypatch.setattr("sys.argv", ["tuned_gain.py", *arguments])
    assert gain.main() == 2
    assert "9999 threads: this process may use 1 to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
