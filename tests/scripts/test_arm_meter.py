"""The ARM meter and llvm-mca's reader: the estimate, the counts of a model, what they refuse."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meter_regions import region

SCRIPTS = Path(__file__).parents[2] / "scripts"
METER = SCRIPTS / "armmeter" / "armmeter.py"


def test_the_estimate_is_the_busiest_part_and_what_misses_leave(script):
    estimate = script("armmeter/estimate.py")
    # 2.84 GHz: 2.84 M cycles are a millisecond. 5.68 M multiply-adds keep two pipes busy for one.
    busy = estimate.estimate(region(insns=8_000_000, fma_4s=5_680_000))
    assert (busy.bound, busy.core_ms, busy.memory_ms) == ("vector", pytest.approx(1), 0)
    assert busy.share(4 * 5_680_000) == pytest.approx(1)
    assert busy.fma_share == pytest.approx(1)
    front = estimate.estimate(region(insns=4 * 2_840_000, fma_4s=100))
    assert (front.bound, front.core_ms) == ("front end", pytest.approx(1))
    # A line from memory: 300 cycles, of which 6 % show.
    waits = estimate.estimate(region(insns=4, l3_miss=[100_000, 57_777]))
    assert waits.memory_ms == pytest.approx(157_777 * 18 / 2.84e6)


def test_regions_add_up(script):
    estimate = script("armmeter/estimate.py")
    both = estimate.total([region(insns=3, l1_miss=[1, 2]), region(insns=4, l1_miss=[10, 20])])
    assert (both["insns"], both["l1_miss"]) == (7, [11, 22])


@pytest.mark.parametrize(
    ("precision", "rel_error", "is_wrong", "share"),
    [
        ("fp32", 9e-5, False, 1.0),
        ("fp32", 2e-4, True, 1.0),
        ("fp32", float("nan"), True, 1.0),
        # Twice the lanes: the same multiply-adds are half of what there was time for.
        ("fp16", 2e-4, False, 0.5),
        ("fp16", 3e-2, True, 0.5),
    ],
)
def test_a_row_is_held_against_its_precision(script, precision, rel_error, is_wrong, share):
    table = script("armmeter/phone_table.py")
    kind = {"fp32": "fma_4s", "fp16": "fma_8h"}[precision]
    result = {
        "regions": [region(insns=4, **{kind: 5_680_000})],
        "kept_macs": 4 * 5_680_000,
        "rel_error": rel_error,
        "precision": precision,
        "sensitivity": 1.0,
        "threads": 1,
    }
    row = table.Row(title="", column="", engine="rt3d", result=result)
    assert row.is_wrong == is_wrong
    assert row.estimate.share(result["kept_macs"]) == pytest.approx(share)
    assert row.estimate.fma_share == pytest.approx(1)
    # What is far from the reference altogether is said of every engine.
    far = not rel_error <= {"fp32": 1e-2, "fp16": 2e-2}[precision]
    assert bool(script("armmeter/meter_results.py").warnings(result)) == far
    assert not table.Row(title="", column="", engine="mnn", result=result).is_wrong


def test_multiply_adds_of_the_file_are_those_of_the_manifest(script, compiled):
    work = script("armmeter/inference.py").count_macs(compiled.onnx)
    layers = compiled.manifest["layers"]
    assert list(work.shape) == list(compiled.manifest["inputs"][0]["shape"])
    assert work.dense_macs == sum(layer["dense_macs"] for layer in layers)
    # The manifest's are the density times the dense ones, rounded a layer.
    assert abs(work.kept_macs - sum(layer["kept_macs"] for layer in layers)) <= len(layers)
    assert work.precision == "fp32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["selfcheck"], "setup.sh"),
        (["run", "--engine", "rt3d", "--model", "x"], "needs --onnx"),
        (["run", "--engine", "mnn", "--model", "x", "--layers"], "--layers counts calls"),
        (["table", "nothing.json"], "nothing.json"),
    ],
)
def test_the_meter_says_what_is_missing(tmp_path, arguments, message):
    done = subprocess.run(
        [sys.executable, METER, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "ARMMETER_HOME": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


CODE = """
00000000000000a0 <other>:
      a0:      \tret

0000000000001000 <kgs_conv3d_compute_>:
    1000:      \tmov\tw8, #0x4
    1004:      \tldr\tq0, [x1], #0x10
    1008:      \tfmla\tv1.4s, v2.4s, v0.s[0]
    100c:      \tsubs\tw9, w9, #0x1
    1010:      \tb.ne\t0x1004 <kgs_conv3d_compute_+0x4>
    1014:      \tsubs\tw8, w8, #0x1
    1018:      \tb.ne\t0x1000 <kgs_conv3d_compute_>
    101c:      \tcbz\tx0, 0x1020 <kgs_conv3d_compute_+0x20>
    1020:      \tret
"""


def test_only_innermost_loops_are_read(script, monkeypatch, tmp_path):
    pipes = script("kernels/fma_pipes.py")
    objdump = tmp_path / "objdump"
    objdump.write_text(f"#!/bin/sh\ncat <<'EOF'\n{CODE}EOF\n")
    objdump.chmod(0o755)
    functions = pipes.disassemble(str(objdump), tmp_path)
    assert set(functions) == {"other", "kgs_conv3d_compute_"}
    (loop,) = pipes.innermost_loops(functions["kgs_conv3d_compute_"])
    assert [line.split("\t")[0] for line in loop] == ["ldr", "fmla", "subs", "b.ne"]


def test_cycles_come_from_the_model_of_the_right_processor(script):
    if not any(shutil.which(f"llvm-mca-{version}") for version in (19, 20, 21)):
        pytest.skip("no llvm-mca of LLVM 19 or newer")
    pipes = script("kernels/fma_pipes.py")
    # Sixteen sums that wait for nothing but their own last value: two a cycle.
    sums = [f"fmla\tv{i}.4s, v30.4s, v31.s[0]" for i in range(16)]
    body = [*sums, "subs\tw9, w9, #0x1", "b.ne\t0x1004 <f+0x4>"]
    assert pipes.cycles_per_iteration(pipes.tool("llvm-mca"), body) == pytest.approx(8, rel=0.05)


def test_an_artifact_for_this_machine_has_no_such_pipes(script, compiled_c3d, monkeypatch):
    pipes = script("kernels/fma_pipes.py")
    with pytest.raises(pipes.InputError, match="not for AArch64"):
        pipes.artifact_loops(compiled_c3d.folder)
