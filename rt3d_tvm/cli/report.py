"""rt3d report."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import (
    add_engines,
    add_folders,
    add_output_file,
    add_runs,
    add_threads,
    output_file,
)
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.cli.compare import add_seed
from rt3d_tvm.cli.preprocessing import add_preprocessing, given_options, given_preprocessing
from rt3d_tvm.cli.videos import add_test_videos, chosen_videos
from rt3d_tvm.console import print_table, printable, progress
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from rt3d_tvm.cli.command import Commands


def add_report(commands: Commands) -> None:
    """`rt3d report`."""
    report = add_command(
        commands, "report", _report, "write a page to send: what was gained, layer by layer"
    )
    add_folders(report)
    report.add_argument(
        "--onnx",
        type=Path,
        metavar="X.onnx",
        help="compare with this file: other engines, the error of each layer, what is kept",
    )
    add_engines(report)
    add_test_videos(report)
    add_output_file(report, "X.html", "write the page, which needs no network", required=False)
    report.add_argument("--csv", type=output_file, metavar="FILE", help="write the layers as CSV")
    report.add_argument(
        "--trace",
        type=output_file,
        metavar="FILE",
        help="write one run for Perfetto or chrome://tracing",
    )
    report.add_argument(
        "--node-data",
        type=output_file,
        metavar="FILE",
        help="write a number for each layer, which Model Explorer lays over the graph of --onnx",
    )
    report.add_argument(
        "--node-value",
        choices=("ms", "gflops", "density", "error"),
        default="ms",
        help="which number that is; default: ms",
    )
    add_preprocessing(report)
    add_runs(report, default=20)
    add_threads(report)
    add_seed(report)


def _report(args: argparse.Namespace) -> int:
    if not any((args.output, args.csv, args.trace, args.node_data, args.json)):
        raise InputError("-o X.html is needed, or --json, --csv, --trace or --node-data")
    if args.engines is not None and args.onnx is None:
        raise InputError("--engines says what runs the file of --onnx: give --onnx")
    if args.data is None and (given := given_options(args)):
        raise InputError(f"{given[0]} says how clips are made: --data is needed")
    from rt3d_tvm.engines.engine import chosen
    from rt3d_tvm.reporting.artifacts import Settings
    from rt3d_tvm.reporting.write import make_report

    engines = None if args.engines is None else args.engines.split(",")
    settings = Settings(
        folders=args.folders,
        onnx=args.onnx,
        data=args.data,
        videos=chosen_videos(args),
        preprocessing=functools.partial(given_preprocessing, args),
        engines=() if args.onnx is None else chosen(engines),
        all_engines=engines is not None,
        runs=args.runs,
        threads=args.threads,
        seed=args.seed,
    )
    with progress("report") as stage:
        found = make_report(
            settings,
            command=args.command,
            progress=stage,
            page=args.output,
            table=args.csv,
            trace=args.trace,
            node_data=args.node_data,
            node_value=args.node_value,
        )
    print_table(
        [
            (*(gain[key] for key in ("model", "against", "batch", "ms_before", "ms", "times")),)
            for gain in found["gains"]
        ],
        columns=("model", "against", "batch", "ms then", "ms now", "times as fast"),
    )
    for note in (*found["left_out"], *found["disturbance"]["notes"]):
        print(printable(f"note: {note}"))
    for path in (args.output, args.csv, args.trace, args.node_data):
        if path is not None:
            print(printable(f"written: {path}"))
    write_result(args, found)
    return 0
