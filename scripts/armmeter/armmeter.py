"""The ARM meter: counts the AArch64 work of one inference under emulation, estimates its time.

    python armmeter.py run --engine rt3d --model DIR --onnx X.onnx [--layers] [--json F]
    python armmeter.py run --engine onnxruntime|mnn --model X.onnx [--json F]
    python armmeter.py table F...
    python armmeter.py hot F
    python armmeter.py selfcheck

An estimate for one Cortex-A77-class core, not a simulation: docs/arm_meter.md says what it is.
setup.sh beside this file sets it up.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from emulation import CPU, HERE, HOME, TIMEOUT_S, emulate, needed
from estimate import INT8, multiply_adds
from inference import measure
from meter_results import largest_error, load_result, show, show_hot, show_layers

from rt3d_tvm.console import print_table, write_json
from rt3d_tvm.errors import InputError

ENGINES = ("rt3d", "onnxruntime", "mnn")


def selfcheck() -> int:
    """Run selfcheck.c, which prints the counts it must give, and compare; how many are wrong."""
    wrong, rows = 0, []
    program = needed(HOME / "selfcheck")
    for arguments in ([], [32], [256], [2048], [8192], ["kernels"]):
        # No Cortex-A76 has i8mm: the kernels need all that QEMU can do.
        cpu = "max" if arguments == ["kernels"] else CPU
        counts = emulate([program, *arguments], environment={}, timeout=300, cpu=cpu)
        _, *parts = counts["said"].split("part ")
        if len(parts) != len(counts["regions"]):
            raise InputError(f"{program} is of another version: run {HERE / 'setup.sh'}")
        for part, region in zip(parts, counts["regions"], strict=True):
            what, *expected = part.splitlines()
            for name, want in (line.split() for line in expected):
                got = _count(region, name)
                wrong += got != int(want)
                rows.append((what, name, int(want), got, "ok" if got == int(want) else "WRONG"))
    print_table(rows, columns=("part", "count", "expected", "counted", ""))
    print(f"{wrong} counts are wrong" if wrong else "all counts as expected")
    return wrong


def _count(region: Mapping, name: str) -> int:
    """A count by its name in selfcheck.c: one of the plugin's, or the multiply-adds of int8."""
    if name == "int8_macs":
        return multiply_adds(region, INT8)
    return sum(region[name]) if isinstance(region[name], list) else region[name]


def _run(args: argparse.Namespace) -> int:
    if args.engine == "rt3d" and args.onnx is None:
        raise InputError("--engine rt3d needs --onnx, the file that the artifact was made from")
    if args.layers and args.engine != "rt3d":
        raise InputError(f"--layers counts calls of an artifact, not of {args.engine}")
    result = measure(
        args.engine,
        args.model,
        args.onnx or args.model,
        layers=args.layers,
        timeout=args.timeout,
        cpu=args.cpu,
    )
    if args.json:
        write_json(args.json, result)
    if args.layers:
        show_layers(result)
    show([result])
    return 0 if result["rel_error"] <= largest_error(result) else 1


def _table(args: argparse.Namespace) -> int:
    show([load_result(path) for path in args.files])
    return 0


def _hot(args: argparse.Namespace) -> int:
    show_hot(load_result(args.file), args.call)
    return 0


def main() -> int:
    """Exit status 1 for a wrong answer or count, 2 for input that will not do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="count one inference")
    run.add_argument("--engine", required=True, choices=ENGINES)
    run.add_argument("--model", required=True, type=Path, help="ONNX file; rt3d: the artifact")
    run.add_argument("--onnx", type=Path, help="rt3d: the ONNX file the artifact was made from")
    run.add_argument("--layers", action="store_true", help="rt3d: count each call by itself")
    run.add_argument("--json", type=Path, help="write the result here")
    run.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds; default: 1800")
    run.add_argument("--cpu", default=CPU, help=f"that QEMU emulates; default: {CPU}")
    run.set_defaults(command=_run)
    table = commands.add_parser("table", help="rows of several results")
    table.add_argument("files", nargs="+", type=Path)
    table.set_defaults(command=_table)
    hot = commands.add_parser("hot", help="disassemble the blocks that ran most instructions")
    hot.add_argument("file", type=Path)
    hot.add_argument("--call", type=int, default=0, help="of a result with --layers; default: 0")
    hot.set_defaults(command=_hot)
    check = commands.add_parser("selfcheck", help="compare decoder and caches with known counts")
    check.set_defaults(command=lambda args: int(selfcheck() > 0))
    args = parser.parse_args()
    try:
        return args.command(args)
    except InputError as error:
        print(f"armmeter: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
