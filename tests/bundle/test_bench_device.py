# ruff: noqa: F811 fixtures are imported, and named again where they are used
"""rt3d bench on devices without TVM: a stand-in adb and ssh, whose programs run under qemu-user."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from rt3d_tvm import cli
from rt3d_tvm.bundle.make import bundle
from rt3d_tvm.measure.bench_program import throttling
from rt3d_tvm.measure.phone_row import phone_row
from rt3d_tvm.measure.record import SCHEMAS
from tests.artifact.networks import write_network
from tests.bundle.building import zig
from tests.bundle.stand_ins import device  # noqa: F401 a fixture


@pytest.fixture(scope="module")
def bundled(tmp_path_factory) -> Path:
    zig()
    folder = tmp_path_factory.mktemp("bench-device")
    onnx = write_network(folder / "m.onnx")
    bundle(onnx, folder / "b", target="arm64", programs=["bench"])
    return folder / "b"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (["--adb"], {"manufacturer": "Acme", "model": "Nine", "soc": "SM8250", "android": "14"}),
        (["--ssh", "good"], None),
        (["--runner", "qemu-aarch64 {}"], {"runner": "qemu-aarch64 {}"}),
    ],
)
def test_a_device_is_measured(place, said, bundled, qemu, device, tmp_path, capsys):
    to = tmp_path / "report.json"
    arguments = ["bench", str(bundled), *place, "--runs", "2", "--threads", "2", "--json", str(to)]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "p50 ms" in out and "2 threads, 2 runs" in out and "passed" in out
    result = json.loads(to.read_text())
    assert result["target"] == "arm64" and result["model"] == "m.onnx"
    jsonschema.validate(result, json.loads((SCHEMAS / "bench.json").read_text()))
    assert result["timings"][0]["p50_ms"] == pytest.approx(result["report"]["p50_ms"], rel=0.01)
    assert said is None or result["device"] == said
    assert len(result["report"]["samples"]) == 2
    assert list(device.iterdir()) == []  # nothing is left there
    assert ("docs/phones.md" in out) is ("--runner" not in place)
    if "--adb" in place:
        row = ("Acme Nine", "SM8250", "Android 14")
        assert f"| {' | '.join(row)} |" in out and phone_row(result)[:3] == row
    if "--runner" in place:
        assert cli.main([*arguments[:-2], "--layers"]) == 0
        assert "share" in capsys.readouterr().out


SLOW = """
import subprocess, sys, time
for number in range(6):
    print(f"run {number} of 6", flush=True)
    time.sleep(0.5)
time.sleep(float(sys.argv[1]))
sys.exit(subprocess.run(["qemu-aarch64", *sys.argv[2:]]).returncode)
"""


def test_a_slow_device_has_as_long_as_it_tells_how_far_it_is(
    bundled, qemu, tmp_path, monkeypatch, capsys
):
    """Its six lines take longer than the deadline, which is of the silence between two of them."""
    monkeypatch.setattr("rt3d_tvm.measure.bench_program._TELL_S", 1)
    (tmp_path / "slow.py").write_text(SLOW)

    def run(silent_s):
        runner = f"{sys.executable} {tmp_path / 'slow.py'} {silent_s} {{}}"
        arguments = ["bench", str(bundled), "--runner", runner, "--runs", "1", "--deadline", "1"]
        return cli.main(arguments)

    assert run(0) == 0
    assert "bench: run 5 of 6" in capsys.readouterr().out
    began = time.monotonic()
    assert run(60) == 2
    assert time.monotonic() - began < 30
    error = capsys.readouterr().err
    assert "nothing from the program within 2 s; --deadline gives it longer" in error


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("absent", "adb lists no device: connect one"),
        ("unauthorised", "R58M: adb says that it is unauthorized: unlock it and allow USB"),
        ("offline", "R58M: adb says that it is offline: unplug it"),
        ("two", "several devices, R58M, emulator-5554: --serial names one"),
        ("full", "R58M: no space left there for"),
        ("unplugged", "R58M: went away: adb: device 'R58M' not found"),
        ("unplugged in the push", "R58M: went away: adb: error: device offline"),
    ],
)
def test_what_is_wrong_with_a_phone_is_one_line(
    mode, message, bundled, device, monkeypatch, capsys
):
    monkeypatch.setenv("ADB_MODE", mode)
    assert cli.main(["bench", str(bundled), "--adb", "--runs", "1"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert list(device.iterdir()) == []


def test_what_is_asked_wrongly_is_one_line(bundled, device, pair, tmp_path, monkeypatch, capsys):
    bundle(pair.folder, tmp_path / "without")
    damaged = Path(shutil.copytree(bundled, tmp_path / "damaged"))
    (damaged / "weights.bin").write_bytes(b"")
    for arguments, message in (
        ([str(bundled), "--adb", "--ssh", "good"], "name one place each"),
        ([str(bundled), "--serial", "R58M"], "--serial needs --adb"),
        ([str(bundled)], "is a bundle: --adb, --ssh or --runner '{}' runs it"),
        ([str(bundled), "--ssh", "good", "--serial", "R58M"], "--serial is of a device of --adb"),
        ([str(bundled), "--adb", "--serial", "X"], "lists no device X; it lists R58M"),
        ([str(bundled), "--ssh", "away"], "away: cannot be reached: ssh: connect to host away"),
        ([str(bundled), "--runner", "qemu-aarch64"], "{} is missing"),
        ([str(bundled), "--runner", "no-such-program {}"], "no program no-such-program here"),
        ([str(bundled), "--runner", "false {}"], "bench failed: status 1"),
        ([str(bundled), "--runner", "echo {}"], "bench printed no report"),
        ([str(bundled), "--adb", "--target", "arm64"], "is bundled already"),
        ([str(tmp_path / "without"), "--adb"], "has no program bench"),
        ([str(damaged), "--adb"], "weights.bin: damaged, or changed"),
    ):
        assert cli.main(["bench", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["bench", str(bundled), "--adb"]) == 2
    assert "there is no program adb here" in capsys.readouterr().err


def test_a_device_that_throttles_is_said():
    def report(ms, khz, celsius=(40.0, 40.0)):
        spread = [[first] * 3 + [last] * 3 for first, last in (ms, khz, celsius)]
        names = ("ms", "khz", "celsius")
        return {
            "samples": [dict(zip(names, row, strict=True)) for row in zip(*spread, strict=True)]
        }

    assert throttling(report((50, 52), (2.8e6, 2.8e6))) is None
    assert throttling(report((50, 80), (2.8e6, 1.9e6), (45.0, 78.0))) == (
        "it throttles: 2.80 to 1.90 GHz, 45 to 78 °C"
    )
    assert throttling(report((50, 80), (0, 0), (0.0, 0.0))) == (
        "it becomes slower: the last runs take 1.60 times the first's"
    )
    assert throttling({"samples": report((50, 80), (0, 0))["samples"][2:4]}) is None
