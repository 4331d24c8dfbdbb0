"""A whole search on this machine: what it finds is used, and nothing stops it for good."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from rt3d_tvm import cli
from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.verify import relative_distance
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.devices.remote import DeviceFailure, ThisMachine
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune import trials as trials_module
from rt3d_tvm.tune import verified as verified_module
from rt3d_tvm.tune.fleet import Devices
from rt3d_tvm.tune.measuring import TRIAL, Job
from rt3d_tvm.tune.tasks import extract_tasks
from rt3d_tvm.tune.trials import Tuner
from rt3d_tvm.tune.tuner import tune_onnx
from rt3d_tvm.tune.watch import Watch
from tests.searches import fault, rows, trials
from tests.two_layers import SHAPE, check_refused, write_two_layers

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def searched(onnx_path, tmp_path_factory):
    """The work directory of a search with 6 trials a layer, done in two runs of the command."""
    work = tmp_path_factory.mktemp("searched") / "work"
    argv = ["tune", str(onnx_path), "--work-dir", str(work), "--threads", "1"]
    assert cli.main([*argv, "--trials", "4"]) == 0
    first = rows(work)
    assert len(trials(work)) == 8
    assert cli.main([*argv, "--trials", "6"]) == 0
    assert rows(work)[: len(first)] == first
    return work


def test_the_result_of_a_search_is_what_a_build_uses(onnx_path, searched, tmp_path, capsys):
    work, out = shutil.copytree(searched, tmp_path / "work"), tmp_path / "r.json"
    argv = ["tune", str(onnx_path), "--work-dir", str(work), "--json", str(out)]
    assert cli.main([*argv, "--trials", "6", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert f"tune: {work}/trials.jsonl has 12 trials; the search goes on" in said
    assert "default ms" in said
    assert f"rt3d compile {onnx_path} -o DIR --database {work} uses it" in said
    report = json.loads(out.read_text())
    assert report["trials"] == 12 == len(trials(work))
    assert (report["failures"], report["quarantined"]) == ({}, {})
    assert [task["calls"] for task in report["tasks"]] == [1, 1]
    for task in report["tasks"]:
        assert 0 < task["tuned_ms"] <= task["default_ms"]
        own = [row for row in trials(work) if row["task"] == task["task"]]
        assert len(own) == task["trials"]
        # No choice twice, and the first of all is the default.
        assert len({json.dumps(row["choice"]) for row in own}) == len(own)
    manifest = compile_onnx(onnx_path, tmp_path / "tuned", database=work, shipped=False)
    assert {layer["tuned"] for layer in manifest["layers"]} == {f"{work} (two.onnx)"}
    compile_onnx(onnx_path, tmp_path / "plain", shipped=False)
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype="float32")
    results = [load(tmp_path / name).run(x) for name in ("tuned", "plain")]
    assert relative_distance(*results) <= 1e-5


def test_kernels_that_crash_hang_or_do_nothing_end_no_search(
    onnx_path, tmp_path, sabotaged, monkeypatch
):
    """Numbers 0 and 4 are the tasks' defaults, which have to work."""
    sabotaged({1: "crash", 2: "spin", 5: "nothing"})
    monkeypatch.setattr(trials_module, "ROUND", 4)
    said = []
    report = tune_onnx(
        onnx_path,
        tmp_path / "work",
        trials=6,
        threads=1,
        deadline_s=3.0,
        watch=Watch(say=said.append),
    )
    assert report.failures == {"died": 1, "no answer": 1}
    assert report.trials == 12 == len(trials(tmp_path / "work"))
    assert report.quarantined == {}
    failed = [row["failure"] for row in trials(tmp_path / "work") if "failure" in row]
    assert {each["kind"] for each in failed} == {"died", "no answer"}
    (wrong,) = [reason for task in report.tasks for reason in task.wrong]
    assert "outputs are not finite" in wrong
    assert any("a fast choice is wrong" in line for line in said)
    assert all(task.tuned_ms <= task.default_ms for task in report.tasks)


def test_the_best_are_measured_again_on_a_device_where_a_trial_just_ends_in_time(
    onnx_path, tmp_path, monkeypatch
):
    monkeypatch.setattr(verified_module, "why_wrong", lambda *_: None)  # it computes nothing
    said, finals = [], []

    class Slow:
        address = "slow"

        def time_kernels(self, kernels, *, turns, repeats, min_repeat_ms):
            runs = len(kernels) * (1 + turns * (1 + repeats))
            if runs > 1 + TRIAL.turns * (1 + TRIAL.repeats):
                raise DeviceFailure("no answer within the deadline", "no answer")
            finals.extend([repeats] if repeats != TRIAL.repeats else [])
            return [[1e-3] * turns * repeats] * len(kernels)

        def run_kernel(self, path, names):
            return np.zeros(1)

        put = allocate = drop = close = interrupt = lambda self, *_: None

    class NoCompiler:
        def build(self, kernels):
            for number, _ in enumerate(kernels):
                path = tmp_path / f"{time.monotonic_ns()}-{number}.so"
                path.write_bytes(b"")
                yield path

    target, watch = make_target("host"), Watch(say=said.append)
    session = {"model": "two.onnx", "versions": {}}
    tasks = extract_tasks(lower(import_onnx(onnx_path), Lowering(target=target)))
    with (
        Tuner(target, tasks, work=tmp_path / "work", session=session, watch=watch) as tuner,
        Devices(Slow, 1, say=said.append) as devices,
    ):
        report = tuner.run(NoCompiler(), devices, trials=2)
    assert not any("trying again" in line for line in said)
    assert (
        len(finals) == 2 * 2 * verified_module.FINAL.turns
    )  # of each task the default and the other
    assert (report.trials, report.failures) == (4, {})


def test_a_search_with_other_settings_is_refused(onnx_path, searched, tmp_path):
    shutil.copytree(searched, tmp_path / "work")
    other = write_two_layers(tmp_path / "two.onnx", seed=1)
    with pytest.raises(InputError, match=r"something else .model_sha256 '\w+' there"):
        tune_onnx(other, tmp_path / "work", trials=1, threads=1)
    with pytest.raises(InputError, match="winograd True there, False here"):
        tune_onnx(onnx_path, tmp_path / "work", trials=1, threads=1, winograd=False)
    with pytest.raises(InputError, match="threads 1 there, None here"):
        tune_onnx(onnx_path, tmp_path / "work", trials=1)


def test_rows_of_nothing_known_are_told_and_left(onnx_path, searched, tmp_path):
    work = shutil.copytree(searched, tmp_path / "work")
    with (work / "trials.jsonl").open("a") as file:
        file.write('{"task": "of another model", "choice": {}}\n{"n": 1}\n')
        file.write('{"task": 1, "seconds": "x"}\n{"torn')
    said = []
    report = tune_onnx(onnx_path, work, trials=6, threads=1, watch=Watch(say=said.append))
    assert report.trials == 12
    assert any("3 rows are of no trial of this model" in line for line in said)
    assert any("lines were torn" in line for line in said)
    assert (work / "trials.torn.jsonl").read_text() == '{"torn\n'


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--target", "toaster"], "toaster"),
        (["--target", "arm64"], "name a tracker and a key, or tune for host"),
        (["--key", "phone"], "its tracker is needed as well"),
        (["--tracker", "127.0.0.1:9"], "a key is needed as well"),
        (["--tracker", "127.0.0.1:9", "--key", "phone"], "no RPC tracker there"),
        (["--threads", "9999"], "9999 threads: this machine has"),
        (["--trials", "0"], "'0': a whole number of at least 1"),
        (["--deadline", "-1"], "'-1': seconds are accepted"),
        (["--cooldown", "-1"], "'-1': seconds are accepted"),
        (["--max-temperature", "-1"], "'-1': degrees Celsius"),
        (["--precision", "fp16"], "has no float16 arithmetic"),
        (["--group", "5x4"], "5x4"),
    ],
)
def test_bad_input_is_one_line_that_names_it(onnx_path, tmp_path, arguments, says, capsys):
    check_refused(onnx_path, tmp_path / "work", arguments, says, capsys)


def test_ctrl_c_ends_a_search_within_seconds_and_leaves_nothing_behind(onnx_path, tmp_path):
    work = tmp_path / "work"
    command = [sys.executable, "-m", "rt3d_tvm.cli", "tune", str(onnx_path)]
    process = subprocess.Popen(
        [*command, "--work-dir", str(work), "--trials", "500"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        # A test run in the background of a shell ignores it, and hands that on.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 120
    while not (work / "trials.jsonl").exists() or len(trials_of_torn(work)) < 3:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all of them
    began = time.monotonic()
    said, error = process.communicate(timeout=60)
    assert time.monotonic() - began < 30  # half a trial's deadline
    assert (process.returncode, error) == (130, "rt3d: interrupted\n")
    assert said.endswith("tune: stopped; the same command goes on from here\n")
    assert not psutil.wait_procs(children, timeout=5)[1]
    kept = rows(work)
    report = tune_onnx(onnx_path, work, trials=len(kept) // 2 + 1)
    assert rows(work)[: len(kept)] == kept
    assert (report.trials, report.failures) == (2 * (len(kept) // 2 + 1), {})


def test_a_search_is_left_within_seconds_while_a_kernel_hangs(tmp_path):
    said = []
    opener = partial(ThisMachine, threads=1, deadline_s=300)
    with Devices(opener, 1, say=said.append) as devices:
        devices._jobs.put((Job(0, fault("spin", tmp_path), {}), TRIAL, 0))
        until = time.monotonic() + 60
        while not devices.states[0].endswith("measuring"):
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(1)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert not any(thread.is_alive() for thread in devices._threads)


def trials_of_torn(work: Path) -> list[str]:
    return (work / "trials.jsonl").read_text().splitlines()
