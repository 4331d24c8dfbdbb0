"""The program `bench` of a bundle on a device: brought there, run, its report read."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rt3d_tvm.bundle.make import bundle
from rt3d_tvm.bundle.program import EXPECTED, INPUT
from rt3d_tvm.bundle.write import BUNDLE, check_bundle, read_bundle
from rt3d_tvm.devices.shell import Machine, run_files
from rt3d_tvm.errors import InputError
from rt3d_tvm.package.version import __version__

PROGRAM = "bench"
_WRONG = 3
# Seconds between two lines of the program. Multiply-adds that the slowest device does in a second:
# qemu-user on two cores of a Zen 5 does 8 times as many.
_TELL_S, _MACS_PER_S = 5, 1e8
# A clock below this part of what it was, and runs longer than this, are said: neither is noise.
_SLOWER_CLOCK, _LONGER = 0.93, 1.15


@dataclass(frozen=True, kw_only=True)
class DeviceBench:
    """What the program said, and of what: the bundle's target, the device, what became slower.

    dense_macs, kept_macs: of all layers, as they are and as pruning left them. throttling: why the
    figures are those of a device that slows down; None where it does not.
    """

    model: str
    target: str
    precision: str
    dense_macs: int
    kept_macs: int
    versions: dict[str, str]
    device: dict[str, str]
    throttling: str | None
    report: dict


def bench_bundle(
    folder: Path,
    machine: Machine,
    *,
    runs: int,
    threads: int | None = None,
    cores: str | None = None,
    deadline_s: float,
    progress: Callable[[str], None] = lambda stage: None,
) -> DeviceBench:
    """Run a bundle's program bench on a machine; InputError for what goes wrong there.

    cores: those that its threads are bound to, such as "4-7". deadline_s: for the copy, which has a
    second more for each MB, and for each run, which has one more for each `_MACS_PER_S`.
    """
    about = read_bundle(folder)
    if PROGRAM not in about["programs"]:
        raise InputError(f"{folder}: has no program bench: `rt3d bundle --program bench` links one")
    names = [PROGRAM]
    names += [] if about["embedded"] else ["weights.bin"]
    names += sorted(name for name in about["sha256"] if name.startswith((INPUT, EXPECTED)))
    check_bundle(folder, names)
    arguments = ["--runs", str(runs)]
    arguments += [] if threads is None else ["--threads", str(threads)]
    arguments += [] if cores is None else ["--cores", cores]
    device = machine.describe()
    kept = sum(layer["kept_macs"] for layer in about["layers"])

    def said(line: str) -> None:
        if line.startswith("run "):
            progress(line)

    ran = run_files(
        machine,
        [folder / name for name in names],
        [*arguments, "--progress", str(_TELL_S)],
        deadline_s=deadline_s,
        # Between two lines there is one run, and what was left of the time to the next line.
        silence_s=deadline_s + kept / _MACS_PER_S + _TELL_S,
        said=said,
    )
    if ran.status not in (0, _WRONG):
        lines = [line.strip() for line in ran.error.splitlines() if line.strip()]
        reason = lines[-1].removeprefix("error: ") if lines else f"status {ran.status}"
        raise InputError(f"{machine.name}: {PROGRAM} failed: {reason}")
    report = _parsed(ran.output, machine.name)
    if report["artifact"] != about["artifact"]:
        raise InputError(f"{machine.name}: the report is of another model")
    return DeviceBench(
        model=about["model"],
        target=about["target"]["name"],
        precision=about["precision"]["name"],
        dense_macs=sum(layer["dense_macs"] for layer in about["layers"]),
        kept_macs=kept,
        versions={**about["versions"], "rt3d-tvm": __version__},
        device=device,
        throttling=throttling(report),
        report=report,
    )


def bundle_for_bench(
    source: Path,
    made: Path,
    *,
    target: str | None,
    batch: int | None = None,
    progress: Callable[[str], None],
) -> Path:
    """The bundle to run: ``source`` if it is one, else one made of that model in ``made``."""
    if (source / BUNDLE).is_file():
        for option, value in {"--target": target, "--batch": batch}.items():
            if value is not None:
                raise InputError(f"{source} is bundled already: {option} has no effect on it")
        return source
    if not source.is_dir():
        target = target or "arm64"
    settings = {} if batch is None else {"batch": batch}
    bundle(source, made, target=target, programs=[PROGRAM], progress=progress, **settings)
    return made


def throttling(report: dict) -> str | None:
    """How a device became slower while it was measured, in one line; None where it did not."""
    samples = report["samples"]
    part = max(len(samples) // 3, 1)
    first, last = samples[:part], samples[-part:]

    def change(name: str) -> tuple[float, float]:
        return tuple(statistics.median(s[name] for s in taken) for taken in (first, last))

    (clock, later_clock), (ms, later_ms) = change("khz"), change("ms")
    (celsius, later_celsius) = change("celsius")
    warmer = f", {celsius:.0f} to {later_celsius:.0f} °C" if celsius and later_celsius else ""
    if clock and later_clock < _SLOWER_CLOCK * clock:
        return f"it throttles: {clock / 1e6:.2f} to {later_clock / 1e6:.2f} GHz{warmer}"
    if len(samples) >= 6 and later_ms > _LONGER * ms:
        longer = later_ms / ms
        return f"it becomes slower: the last runs take {longer:.2f} times the first's{warmer}"
    return None


def _parsed(text: str, name: str) -> dict:
    """The report that the program printed."""
    try:
        report = json.loads(text[text.index("{") :])
        used = ("artifact", "threads", "p50_ms", "p90_ms", "p99_ms", "samples", "calls", "checked")
        missing: Sequence[str] = [key for key in used if key not in report]
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: {PROGRAM} printed no report: {text.strip()[:80]!r}") from error
    if missing or not report["samples"]:
        raise InputError(f"{name}: {PROGRAM} printed a report of another version")
    return report
