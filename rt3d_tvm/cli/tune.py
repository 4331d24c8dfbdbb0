"""rt3d tune."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import (
    above_zero,
    add_kernels,
    add_opencl,
    add_target,
    add_threads,
    at_least_one,
    compile_options,
    output_folder,
    pause,
    seconds,
)
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.cli.machines import add_machines, machine_of, names_machine
from rt3d_tvm.console import print_table, printable, shell_words
from rt3d_tvm.tune.defaults import DEADLINE_S, TRIALS

if TYPE_CHECKING:
    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.tune.trials import TuningReport

# Tasks whose times are doubtful that are named.
_MOST_DOUBTS = 5


def add_tune(commands: Commands) -> None:
    """`rt3d tune`."""
    tune = add_command(commands, "tune", _tune, "search for faster kernels of a model, on a device")
    tune.add_argument("onnx", type=Path, metavar="X.onnx", help="the model to tune")
    tune.add_argument(
        "--work-dir",
        type=output_folder,
        required=True,
        metavar="DIR",
        help="a new folder, or that of a search begun before",
    )
    add_target(tune, measured=True)
    tune.add_argument(
        "--trials",
        type=at_least_one,
        default=TRIALS,
        metavar="N",
        help=f"candidates to time per layer; default: {TRIALS}",
    )
    add_kernels(tune)
    add_threads(tune)
    tune.add_argument(
        "--deadline",
        type=seconds,
        default=DEADLINE_S,
        metavar="S",
        help=f"seconds for one trial; default: {DEADLINE_S:g}",
    )
    tune.add_argument(
        "--cooldown",
        type=pause,
        default=0,
        metavar="S",
        help="seconds of rest between two trials; default: 0",
    )
    tune.add_argument(
        "--max-temperature",
        type=_celsius,
        metavar="C",
        help="begin no trial before the device is that cool, in degrees Celsius; default: at any",
    )
    add_opencl(tune, what="with target opencl: measure on this machine's")
    add_machines(tune, "on a device without TVM, in static programs; the target is arm64 then")
    tune.set_defaults(target=None)


def _tune(args: argparse.Namespace) -> int:
    from rt3d_tvm.tune.measuring import Pauses
    from rt3d_tvm.tune.tuner import tune_onnx
    from rt3d_tvm.tune.watch import watched

    without_tvm = names_machine(args)
    args.target = args.target or ("arm64" if without_tvm else "host")
    machine = machine_of(args) if without_tvm else None
    with watched() as watch:
        try:
            report = tune_onnx(
                args.onnx,
                args.work_dir,
                compile_options(args),
                tracker=args.tracker,
                key=args.key,
                trials=args.trials,
                threads=args.threads,
                deadline_s=args.deadline,
                pauses=Pauses(rest_s=args.cooldown, max_celsius=args.max_temperature),
                opencl=args.opencl,
                machine=machine,
                watch=watch,
            )
        except KeyboardInterrupt:
            watch.say("stopped; the same command goes on from here")
            raise
    print_table(
        [
            (
                task.task,
                task.calls,
                task.trials,
                sum(task.failures.values()),
                task.default_ms,
                task.tuned_ms,
                task.default_ms / task.tuned_ms,
            )
            for task in report.tasks
        ],
        columns=("task", "layers", "trials", "failed", "default ms", "tuned ms", "times as fast"),
        title=f"{args.onnx}, target {args.target}: best verified, timed in turns with the default",
    )
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(report.failures.items()))
    print(
        f"all layers: {report.default_ms:.4g} ms at the defaults, {report.tuned_ms:.4g} tuned; "
        f"{report.trials} trials, failed: {failed or 'none'}"
    )
    if report.paired:
        print(f"{report.paired} layers share a kernel with another: nothing is chosen for them")
    for address, reason in report.quarantined.items():
        print(printable(f"quarantined: {address}: {reason}"))
    _say_doubts(report)
    print(f"{_compile_command(args)} uses it")
    write_result(args, report)
    return 0


def _say_doubts(report: TuningReport) -> None:
    """Say of what was measured on a machine that others used that it is not to be trusted."""
    doubtful = [task for task in report.tasks if task.doubt is not None]
    if not doubtful:
        return
    print(
        f"warning: {len(doubtful)} of {len(report.tasks)} tasks were measured on a disturbed "
        "machine: their times and gains are not to be trusted; search again in another work "
        "directory while nothing else runs"
    )
    for task in doubtful[:_MOST_DOUBTS]:
        print(printable(f"  {task.task}: {task.doubt}"))
    if len(doubtful) > _MOST_DOUBTS:
        print(f"  and {len(doubtful) - _MOST_DOUBTS} more; --json has all")


def _compile_command(args: argparse.Namespace) -> str:
    """The command that builds with what was found, to be copied; the output folder is DIR."""
    same = {
        "--target": args.target,
        "--precision": args.precision,
        "--accumulate": args.accumulate,
        "--group": args.group,
    }
    usual = {"--target": "host", "--precision": None, "--accumulate": None, "--group": None}
    options = [word for name in same if same[name] != usual[name] for word in (name, same[name])]
    options += ["--direct"] if args.direct else []
    words = ("rt3d", "compile", args.onnx, "-o", "DIR", *options, "--database", args.work_dir)
    return shell_words(*words)


def _celsius(text: str) -> float:
    return above_zero(text, 150, "degrees Celsius are accepted, more than 0 and at most 150")
