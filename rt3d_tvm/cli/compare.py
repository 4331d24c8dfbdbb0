"""The options of every benchmark: what its input is drawn from, and what it is compared with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import at_least_one, whole_number
from rt3d_tvm.cli.command import EXIT_FAILED
from rt3d_tvm.console import print_table

if TYPE_CHECKING:
    from rt3d_tvm.measure.compare import Change


def add_seed(parser: argparse._ActionsContainer) -> None:
    """What the random input is drawn from."""
    parser.add_argument(
        "--seed",
        type=whole_number,
        default=0,
        metavar="N",
        help="seed of random inputs; default: 0",
    )


def add_batch(parser: argparse._ActionsContainer) -> None:
    """Which function of an artifact."""
    parser.add_argument(
        "--batch",
        type=at_least_one,
        metavar="N",
        help="of an artifact of several, default: its first; or of an ONNX file without one",
    )


def add_compare(parser: argparse._ActionsContainer) -> None:
    """An earlier record."""
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OLD.json",
        help="end with status 1 where one is slower than in this record, beyond the noise",
    )


def show_changes(args: argparse.Namespace, compared: Sequence[Change]) -> int:
    """The table of --compare, if it was given; the exit status: 1 where one became slower."""
    if not compared:
        return 0
    unit = "clips/s" if getattr(args, "throughput", False) else "p50 ms"
    print_table(
        [
            (c.label, c.before, c.now, f"{c.change:+.1%}", f"{c.noise:.1%}", c.verdict)
            for c in compared
        ],
        columns=("engine", f"{unit} then", f"{unit} now", "longer by", "noise", "verdict"),
        title=f"beside {args.compare}",
    )
    return EXIT_FAILED if any(each.verdict == "slower" for each in compared) else 0
