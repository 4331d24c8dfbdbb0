"""rt3d bench --adb, --ssh and --runner: a bundle's program on a device without TVM."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING

from rt3d_tvm.cli.command import EXIT_FAILED, write_result
from rt3d_tvm.cli.machines import add_machines, machine_of, names_machine
from rt3d_tvm.console import print_table, printable, progress
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from rt3d_tvm.measure.bench_program import DeviceBench

RUNS = 20
_HERE_ONLY = ("throughput", "seconds", "compare")


def add_program_options(parser: argparse.ArgumentParser) -> None:
    """Where to run a bundle's program."""
    where = add_machines(parser, "on a device without TVM, by a program of `rt3d bundle`")
    where.add_argument(
        "--target",
        metavar="NAME",
        help="what an ONNX file is compiled for; default: arm64",
    )
    where.add_argument(
        "--cores",
        metavar="LIST",
        help="cores that its threads are bound to, such as 4-7; default: the big ones",
    )


def asks_for_program(args: argparse.Namespace) -> bool:
    """Whether the options say where a program is to run; InputError for those that contradict."""
    if not names_machine(args):
        for name in ("target", "cores"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name} needs --adb, --ssh or --runner")
        from rt3d_tvm.bundle.write import BUNDLE

        for folder in args.folders:
            if (folder / BUNDLE).is_file():
                raise InputError(f"{folder} is a bundle: --adb, --ssh or --runner '{{}}' runs it")
        return False
    if args.onnx or args.torch or args.tracker or args.opencl:
        raise InputError(
            "--adb, --ssh and --runner time this model only; leave --onnx, --torch, --remote and "
            "--opencl out"
        )
    if given := [name for name in _HERE_ONLY if getattr(args, name)]:
        raise InputError(f"--{given[0]} is of this machine; leave --adb, --ssh and --runner out")
    if len(args.folders) > 1:
        raise InputError(f"--adb, --ssh and --runner time one model; {len(args.folders)} are given")
    return True


def bench_program(args: argparse.Namespace) -> int:
    """Bring the program to the device, run it, show what it says."""
    from rt3d_tvm.files.staging import scratch_folder
    from rt3d_tvm.measure.bench_program import bench_bundle, bundle_for_bench

    machine = machine_of(args)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder("rt3d-bench-"))
        with progress("bench") as stage:
            folder = bundle_for_bench(
                args.folders[0],
                scratch / "bundle",
                target=args.target,
                batch=args.batch,
                progress=stage,
            )
            stage("run")
            result = bench_bundle(
                folder,
                machine,
                runs=args.runs or RUNS,
                threads=args.threads,
                cores=args.cores,
                deadline_s=args.deadline,
                progress=stage,
            )
    _show(args, result, machine.name)
    write_result(args, _record(args, result))
    checked = result.report["checked"]
    return EXIT_FAILED if checked is not None and not checked["passed"] else 0


def _record(args: argparse.Namespace, result: DeviceBench) -> dict:
    """What the program said, and beside it what every benchmark's record has."""
    from rt3d_tvm.measure.record import bench_record
    from rt3d_tvm.measure.timing import Timing

    said = asdict(result)
    samples = [sample["ms"] for sample in result.report["samples"]]
    return bench_record(
        command=args.command,
        seed=None,
        artifacts=[],
        device=said.pop("device"),
        timings=[Timing.of("rt3d", samples, first_ms=None, name=result.model)],
        threads=result.report["threads"],
        requests=1,
        runs=len(samples),
        seconds=None,
        disturbance=None,
    ) | {**said, "artifacts": [_artifact(result)]}


def _artifact(result: DeviceBench) -> dict:
    return {
        "folder": "",
        "id": result.report["artifact"],
        "model": result.model,
        "target": result.target,
        "precision": result.precision,
    }


def _show(args: argparse.Namespace, result: DeviceBench, name: str) -> None:
    report, device = result.report, result.device
    what = " ".join(device[key] for key in ("manufacturer", "model", "soc") if key in device)
    title = (
        f"{args.folders[0]}: on {what or name}, {report['threads']} threads, {report['runs']} runs"
    )
    if args.layers:
        total = sum(call["ms"] for call in report["calls"])
        print_table(
            [(c["name"], c["ms"], f"{c['ms'] / total:.1%}") for c in report["calls"]],
            columns=("layer", "ms", "share"),
            title=title,
        )
    else:
        print_table(
            [("rt3d", report["p50_ms"], report["p90_ms"], report["p99_ms"], 1.0)],
            columns=("engine", "p50 ms", "p90 ms", "p99 ms", "times rt3d's"),
            title=title,
        )
    memory, opened = report["peak_kb"] / 1e3, report["open_ms"]
    print(f"{memory:.1f} MB of memory at most, opened in {opened:.0f} ms")
    checked = report["checked"]
    if checked is None:
        print("the output was compared with nothing: bundle the ONNX file, or give --onnx then")
    else:
        error = checked["max_rel_error"]
        said = "not finite" if error is None else f"{error:.2g}"
        verdict = "passed" if checked["passed"] else "FAILED"
        what = "output" if checked["outputs"] == 1 else f"{checked['outputs']} outputs"
        print(f"{what}: max_rel_error {said}, limit {checked['limit']:.0e}: {verdict}")
    if result.throttling is not None:
        print(printable(f"note: {result.throttling}"))
    _show_row(args, result)


def _show_row(args: argparse.Namespace, result: DeviceBench) -> None:
    """The row of docs/phones.md that this device would be."""
    from rt3d_tvm.measure.phone_row import as_line, phone_row

    if args.runner is not None or not (result.report["checked"] or {}).get("passed"):
        return
    print("\nto send us this device (docs/phones.md), its --json file or this row:")
    print(printable(as_line(phone_row(asdict(result)))))
