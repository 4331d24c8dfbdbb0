# ruff: noqa: F811 fixtures are imported, and named again where they are used
"""A search on a machine without TVM: kernels in batches, as static programs under qemu-user.

Scripted machines come first, for what machines and kernels do to a batch.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rt3d_tvm import cli
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.devices.commands import Away, Lines
from rt3d_tvm.devices.device import DeviceFailure
from rt3d_tvm.devices.shell import Ssh
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.staging import staged
from rt3d_tvm.tune import batch_runs as runs_module
from rt3d_tvm.tune import batches as batches_module
from rt3d_tvm.tune import trials as trials_module
from rt3d_tvm.tune import tuner as tuner_module
from rt3d_tvm.tune.batch_program import BatchTarget
from rt3d_tvm.tune.batches import Batches
from rt3d_tvm.tune.measuring import Job, Pauses, Timing
from rt3d_tvm.tune.tuner import tune_onnx
from tests.bundle.building import zig
from tests.bundle.stand_ins import device  # noqa: F401 a fixture
from tests.quantized_models import net, quantized_by_onnxruntime
from tests.searches import rows, trials

RUNNER = "qemu-aarch64 {}"


class Scripted:
    """A machine whose program prints what a script has for it: by job, in order, each time it runs.

    A word of a script is what becomes of the job; "lost" ends the program there, "silent" hangs it.
    """

    name = "scripted"

    def __init__(self, scripts: dict[str, list[str]], away: int = 0) -> None:
        self.scripts, self.away, self.ran, self.jobs = scripts, away, [], []
        self.opened = 0

    def check(self) -> None:
        if self.away:
            self.away -= 1
            raise Away("scripted: unplugged")

    def describe(self) -> dict[str, str]:
        return {}

    def open(self) -> Scripted:
        self.opened += 1
        return self

    put = get = remove = close = lambda self, *_: None

    def start(self, program: str, arguments: list[str]) -> Lines:
        lines = ["ready 1"]
        self.ran.append("".join(job.id for job in self.jobs))
        for number, job in enumerate(self.jobs):
            script = self.scripts.get(job.id, [])
            fate = script.pop(0) if script else "good"
            lines.append(f"begin {number}")
            if fate in ("lost", "silent"):
                end = "exit 1" if fate == "lost" else "exec sleep 60"
                return Lines(["sh", "-c", f"printf '%s\n' '{chr(10).join(lines)}'; {end}"])
            told = {"good": f"time {number} 0.0 0.001 0.002", "crash": f"died {number} 11"}
            lines.append(told.get(fate, fate if " " in fate else f"{fate} {number} because"))
        return Lines(["printf", "%s\n", *lines, "end"])


@pytest.fixture
def scripted(monkeypatch, tmp_path) -> Iterator[Callable[..., Batches]]:
    """Makes the devices of a scripted machine: nothing is linked, and nobody waits for long."""
    machines: list[Scripted] = []

    def link(jobs: list[Job], files: dict, made: Path, target: BatchTarget) -> None:
        made.touch()
        machines[-1].jobs = list(jobs)

    monkeypatch.setattr(runs_module, "link_batch", link)
    monkeypatch.setattr(batches_module, "unanswered", lambda kernel: [])
    monkeypatch.setattr(batches_module, "RETRY_S", 0.01)
    monkeypatch.setattr(runs_module, "_GRACE_S", 0.0)
    made: list[Batches] = []

    def make(machine: Scripted, **how: object) -> Batches:
        machines.append(machine)
        settings = {"deadline_s": 2.0, "say": lambda line: None, **how}
        made.append(
            Batches(machine, BatchTarget(machine="any", features={}), name="it", **settings)
        )
        return made[-1].__enter__()

    yield make
    for each in made:
        each.__exit__()


def jobs_of(names: str, folder: Path) -> list[Job]:
    found = [Job(name, folder / name, {}) for name in names]
    for job in found:
        job.path.touch()
    return found


def outcomes(batches: Batches, jobs: list[Job]) -> dict[str, str | None]:
    return {job.id: outcome.kind for job, outcome in batches.measure(jobs)}


def test_a_kernel_that_fails_twice_beside_one_that_works_fails_alone(scripted, tmp_path):
    fates = {"b": ["crash"] * 2, "c": ["error", "good"], "d": ["late"] * 2, "e": ["lost"] * 2}
    machine = Scripted(fates)
    found = outcomes(scripted(machine), jobs_of("abcdef", tmp_path))
    kinds = {"b": "died", "d": "no answer", "e": "died"}
    assert found == {name: kinds.get(name) for name in "abcdef"}
    # The first that worked goes along, and what may take the program down comes last.
    assert machine.ran == ["abcdef", "afbcde"]
    assert machine.opened == 2  # the session that was lost


@pytest.mark.parametrize("line", ["time x 0.0 0.1", "died 1", "begin", "time 1 0.0 fast"])
def test_a_line_that_is_damaged_costs_its_kernel_a_try(line, scripted, tmp_path):
    machine = Scripted({"b": [f"warning: of a loader's\n{line}"]})
    assert outcomes(scripted(machine), jobs_of("abc", tmp_path)) == dict.fromkeys("abc")
    assert machine.ran == ["abc", "acb"]


def test_a_program_that_falls_silent_is_ended(scripted, tmp_path):
    machine = Scripted({"b": ["silent", "silent"]})
    assert outcomes(scripted(machine, deadline_s=0.5), jobs_of("abc", tmp_path)) == {
        "a": None, "b": "no answer", "c": None,
    }  # fmt: skip


def test_a_machine_on_which_nothing_works_is_quarantined(scripted, tmp_path):
    said: list[str] = []
    machine = Scripted({"a": ["good", *["crash"] * 9], "b": ["crash"] * 9})
    batches = scripted(machine, say=said.append)
    first, second = jobs_of("ab", tmp_path)
    assert outcomes(batches, [first]) == {"a": None}
    with pytest.raises(
        InputError, match="no device is left: the kernel's process ended by SIGSEGV"
    ):
        outcomes(batches, [second])
    assert machine.ran == ["a", "b", "ab", "ab"]
    assert list(batches.quarantined) == ["it"] and "quarantined" in said[-1]


def test_a_machine_that_has_gone_is_waited_for(scripted, tmp_path):
    said: list[str] = []
    machine = Scripted({"b": ["lost"]}, away=3)
    batches = scripted(machine, say=said.append)
    assert outcomes(batches, jobs_of("abc", tmp_path)) == dict.fromkeys("abc")
    assert said == ["waiting: scripted: unplugged"]
    gone = scripted(Scripted({"b": ["lost"]}, away=10**9), say=said.append, patience_s=0.1)
    found = []
    with pytest.raises(InputError, match="no device is left: scripted: unplugged"):
        found.extend(job.id for job, _ in gone.measure(jobs_of("abc", tmp_path)))
    assert found == ["a"]  # what was measured is told
    assert said[-1] == "given up: scripted: unplugged"


def test_what_is_measured_in_turns_leaves_out_who_fails(scripted, tmp_path):
    machine = Scripted({"b": ["crash"] * 2, "c": ["lost"]})
    default, *_ = jobs = jobs_of("abc", tmp_path)
    assert scripted(machine).in_turns(jobs, Timing()) == [[0.001, 0.002], [], [0.001, 0.002]]
    with pytest.raises(DeviceFailure, match="SIGSEGV"):
        scripted(Scripted({"a": ["crash"] * 9})).in_turns([default], Timing())


def test_a_kernel_that_asks_for_more_than_there_is_is_not_linked(scripted, tmp_path, monkeypatch):
    monkeypatch.setattr(batches_module, "unanswered", lambda kernel: ["socket"] * bool(kernel))
    first, second = jobs_of("ab", tmp_path)
    second.path.write_bytes(b"x")
    machine = Scripted({})
    (told,) = [o for j, o in scripted(machine).measure([first, second]) if j is second]
    assert (told.kind, machine.ran) == ("build", ["a"])
    assert told.message == "it calls socket, which the C runtime has not"


# With programs that run


def searched(onnx: Path, work: Path, *arguments: str, deadline_s: float = 20) -> int:
    where = arguments if {"--adb", "--ssh"} & {*arguments} else ("--runner", RUNNER, *arguments)
    common = ["--work-dir", str(work), "--threads", "2", "--deadline", str(deadline_s)]
    return cli.main(["tune", str(onnx), *common, *where])


def test_kernels_that_crash_and_hang_end_no_search(
    onnx_path, tmp_path, qemu, sabotaged, monkeypatch, capsys
):
    """Numbers 0 and 3 are the tasks' defaults, which have to work."""
    zig()
    sabotaged({1: "crash", 2: "spin", 4: "nothing"})
    monkeypatch.setattr(trials_module, "ROUND", 3)
    work, report = tmp_path / "work", tmp_path / "r.json"
    more = ("--trials", "3", "--json", str(report))
    assert searched(onnx_path, work, *more, deadline_s=2) == 0
    found = json.loads(report.read_text())
    assert found["failures"] == {"died": 1, "no answer": 1} and found["quarantined"] == {}
    failed = [row["failure"] for row in trials(work) if "failure" in row]
    assert failed == [
        {"kind": "died", "message": "the kernel's process ended by SIGSEGV"},
        {"kind": "no answer", "message": "no answer within 2 s when asked to run a kernel"},
    ]
    (wrong,) = [reason for task in found["tasks"] for reason in task["wrong"]]
    assert "outputs are not finite" in wrong
    assert {row["device"] for row in trials(work)} == {"qemu-aarch64"}
    # The same command goes on where it was, and a build uses what it found.
    before = rows(work)
    assert searched(onnx_path, work, *more, deadline_s=2) == 0
    assert rows(work) == before and "has 6 trials; the search goes on" in capsys.readouterr().out
    manifest = compile_onnx(
        onnx_path, tmp_path / "tuned", target="arm64", database=work, shipped=False
    )
    assert all(str(work) in layer["tuned"] for layer in manifest["layers"])


def test_a_phone_that_is_unplugged_in_the_middle_is_waited_for(
    onnx_path, tmp_path, qemu, device, monkeypatch, capsys
):
    zig()
    (tmp_path / "tmp").mkdir()
    left = device / "rt3d-left"  # by a search that was killed the day before yesterday
    left.mkdir()
    os.utime(left, (time.time() - 2 * 86400,) * 2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(batches_module, "RETRY_S", 0.05)
    monkeypatch.setenv("ADB_MODE", "unplugged twice")
    work = tmp_path / "work"
    assert searched(onnx_path, work, "--adb", "--trials", "1") == 0
    out = capsys.readouterr().out
    assert out.count("tune: waiting: adb lists no device: connect one") == 2
    assert "2 trials, failed: none" in out
    assert {row["device"] for row in trials(work)} == {"Acme Nine SM8250"}
    assert not list(device.glob("rt3d-*"))  # nothing is left there
    assert not staged(Path(tempfile.gettempdir()), "rt3d-batch-")  # nor here
    # It stays away: what was measured is on disk, and the same command goes on from there.
    for cut in device.glob("cut*"):
        cut.unlink()
    monkeypatch.setattr(tuner_module, "PATIENCE_S", 0.0)
    assert searched(onnx_path, tmp_path / "short", "--adb", "--trials", "1") == 2
    assert "no device is left: adb lists no device" in capsys.readouterr().err
    assert len(trials(tmp_path / "short")) == 1
    monkeypatch.setenv("ADB_MODE", "good")
    (device / "away").unlink()
    assert searched(onnx_path, tmp_path / "short", "--adb", "--trials", "1") == 0
    assert len(trials(tmp_path / "short")) == 2


def test_float16_is_searched_over_ssh(onnx_path, tmp_path, qemu, device):
    """The default's result is compared with float64: a wrong one would be an error."""
    zig()
    report = tune_onnx(
        onnx_path,
        tmp_path / "work",
        target="arm64-v8.2",
        precision="fp16",
        trials=1,
        machine=Ssh(host="good"),
        threads=1,
        pauses=Pauses(rest_s=0.01),
    )
    assert report.trials == 2 and report.failures == {}


@pytest.mark.parametrize(
    ("arguments", "mode", "message"),
    [
        (["--adb"], "absent", "adb lists no device: connect one"),
        (["--adb"], "offline", "R58M: adb says that it is offline"),
        (["--adb"], "full", "R58M: no space left there for"),
        (["--adb", "--ssh", "good"], "good", "name one place each"),
        (["--adb", "--key", "k"], "good", "R58M has no TVM: a tracker, its key"),
        (["--ssh", "away"], "good", "away: cannot be reached"),
        (["--adb", "--target", "adreno"], "good", "runs on a GPU, which takes TVM's RPC"),
        (["--adb", "--max-temperature", "40"], "good", "this device shows no temperature"),
        (["--runner", "{}"], "good", "cannot be run: Exec format error"),
        (["--runner", "qemu-aarch64 -cpu cortex-a53 {}", "--target", "arm64-dotprod"], "good",
         "this processor has no atomics, which the target's code uses"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_one_line(
    arguments, mode, message, onnx_path, qemu, device, tmp_path, monkeypatch, capsys
):
    zig()
    monkeypatch.setenv("ADB_MODE", mode)
    command = ["tune", str(onnx_path), "--work-dir", str(tmp_path / "work"), "--trials", "1"]
    assert cli.main([*command, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert not list(device.glob("rt3d-*"))


def test_8_bits_are_searched_and_another_phone_is_told(qemu, tmp_path, capsys):
    zig()
    onnx = quantized_by_onnxruntime(tmp_path, net(3))
    more = ("--trials", "1", "--target", "arm64-dotprod")
    assert searched(onnx, tmp_path / "work", *more) == 0
    assert "failed: none" in capsys.readouterr().out
    where = ["--runner", "qemu-aarch64 -cpu max {}", "--work-dir", str(tmp_path / "work")]
    assert cli.main(["tune", str(onnx), *more, "--threads", "2", *where]) == 2
    assert "device 'qemu-aarch64' there" in capsys.readouterr().err
