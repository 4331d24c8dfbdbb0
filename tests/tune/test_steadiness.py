"""Times of a machine that others use, and what becomes of them on the way to a person."""

import argparse
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from rt3d_tvm.cli import tune as cli_tune
from rt3d_tvm.compile.choices.layer import Choice
from rt3d_tvm.console import shell_words
from rt3d_tvm.tune import verified as verified_module
from rt3d_tvm.tune.steadiness import disturbance
from rt3d_tvm.tune.trials import Tuned, TuningReport
from rt3d_tvm.tune.watch import Watch
from tests.instant_search import Instant, InstantSearch
from tests.two_layers import write_two_layers

STEADY = [1.0e-3, 1.01e-3, 0.99e-3, 1.02e-3, 1.0e-3]


@pytest.mark.parametrize("first", [None, 1.0e-3, 1.15e-3, 0.9e-3])
def test_a_few_per_cent_are_no_disturbance(first):
    assert disturbance(first, STEADY, [0.6 * s for s in STEADY]) is None


@pytest.mark.parametrize("factor", [7, 1.4, 1 / 1.4, 1 / 7])
def test_a_default_that_takes_another_time_at_the_end_is_one(factor):
    slow = [factor * s for s in STEADY]
    text = disturbance(1.0e-3, slow, STEADY)
    assert f"took 1 ms at the start of the search and {factor:.3g} ms at its end" in text


@pytest.mark.parametrize("of", ["default", "best"])
def test_runs_that_scatter_are_one(of):
    scattered = [1.0e-3, 1.0e-3, 1.0e-3, 5.0e-3, 4.0e-3]
    default, best = (scattered, STEADY) if of == "default" else (STEADY, scattered)
    assert f"the runs of its {of} took 1 to 4.6 ms" in disturbance(1.0e-3, default, best)


def test_one_slow_run_of_many_is_none():
    assert disturbance(1.0e-3, [*(4 * STEADY), 9e-3], STEADY) is None


def report(*doubts):
    task = Tuned(
        task="t",
        calls=1,
        trials=8,
        failures={},
        default_ms=7.0,
        tuned_ms=1.0,
        choice=Choice(variant=None, decisions=()),
        wrong=(),
    )
    tasks = tuple(replace(task, task=f"conv{i}\x1b", doubt=doubt) for i, doubt in enumerate(doubts))
    return TuningReport(
        tasks=tasks,
        default_ms=7.0,
        tuned_ms=1.0,
        trials=8,
        failures={},
        quarantined={},
        seconds=1.0,
    )


def test_doubts_are_said_and_a_steady_search_says_nothing(capsys):
    cli_tune._say_doubts(report(None, None))
    assert capsys.readouterr().out == ""
    cli_tune._say_doubts(report("it took 7 times as long", None))
    lines = capsys.readouterr().out.splitlines()
    assert "1 of 2 tasks were measured on a disturbed machine" in lines[0]
    assert lines[1:] == ["  conv0\\x1b: it took 7 times as long"]
    cli_tune._say_doubts(report(*["slow"] * 12))
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[-1]) == (1 + 5 + 1, "  and 7 more; --json has all")


class Disturbed(Instant):
    """A device that takes seven times as long once the trials are over."""

    trials = 4

    def time_kernels(self, kernels, **how):
        Disturbed.trials -= 1
        factor = 1 if Disturbed.trials >= 0 else 7
        return [[factor * seconds for seconds in taken] for taken in super().time_kernels(kernels)]


def test_a_search_on_a_machine_that_gets_busy_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(verified_module, "why_wrong", lambda *_: None)
    search = InstantSearch(write_two_layers(tmp_path / "m.onnx"))
    said = []
    watch = Watch(say=said.append)
    for device, doubtful in ((Disturbed, 2), (Instant, 2)):  # taken up from the log at last
        monkeypatch.setattr("tests.instant_search.Instant", device)
        found = search.run(tmp_path / "work", trials=2, watch=watch)
        assert sum("at the start of the search" in (t.doubt or "") for t in found.tasks) == doubtful
    assert sum("measured on a disturbed machine" in line for line in said) == 2
    steady = search.run(tmp_path / "other", trials=2, watch=watch)
    assert [task.doubt for task in steady.tasks] == [None, None]


PATHS = ["a b.onnx", "it's.onnx", "$(touch x).onnx", "-o.onnx", "a;b&c.onnx", "é.onnx", "a\nb.onnx"]
PATHS += ['"quoted".onnx', "*.onnx", "~.onnx", "back\\slash.onnx", "bytes\udcff.onnx", "!x.onnx"]


@pytest.mark.parametrize("path", PATHS)
def test_the_command_that_is_printed_can_be_copied(path):
    args = argparse.Namespace(
        onnx=Path(path),
        work_dir=Path(f"w {path}"),
        target="cortex-a77",
        precision=None,
        accumulate=None,
        group=None,
        direct=True,
    )
    line = cli_tune._compile_command(args)
    assert line.isprintable()
    program = 'import os, sys; sys.stdout.buffer.write(b"\\0".join(map(os.fsencode, sys.argv[1:])))'
    echo = f'rt3d() {{ python3 -c {shlex.quote(program)} "$@"; }}; {line}'
    words = subprocess.run(["bash", "-c", echo], capture_output=True, check=True).stdout
    found = [word.decode("utf-8", "surrogateescape") for word in words.split(b"\0")]
    named = f"./{path}" if path.startswith("-") else path
    assert found == [
        *("compile", named, "-o", "DIR", "--target", "cortex-a77", "--direct"),
        *("--database", f"w {path}"),
    ]


def test_plain_words_stay_plain():
    assert (
        shell_words("rt3d", "compile", Path("m.onnx"), "-o", "DIR") == "rt3d compile m.onnx -o DIR"
    )
