"""rt3d bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import (
    add_allow_non_finite,
    add_kernels,
    add_output_folder,
    add_records,
)
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.console import print_table, progress

if TYPE_CHECKING:
    from rt3d_tvm.cli.command import Commands


def add_bundle(commands: Commands) -> None:
    """`rt3d bundle`."""
    made = add_command(
        commands, "bundle", _bundle, "write a model as a C library that needs no TVM"
    )
    made.add_argument(
        "source", type=Path, metavar="MODEL", help="X.onnx, or a folder of rt3d compile"
    )
    add_output_folder(made, "the folder to write")
    made.add_argument(
        "--target",
        metavar="NAME",
        help="what to compile an ONNX file for: host (default), arm64, ... as docs/choose.md lists "
        "them",
    )
    made.add_argument(
        "--name",
        default="model",
        metavar="NAME",
        help="name of the library and of its functions; default: model",
    )
    made.add_argument(
        "--embed",
        action="store_true",
        help="put the weights into the library, not into a file beside it",
    )
    made.add_argument(
        "--program",
        action="append",
        default=[],
        metavar="NAME",
        help="also link a static program: bench or classify; may be given twice",
    )
    made.add_argument(
        "--onnx",
        type=Path,
        metavar="X.onnx",
        help="what a folder was compiled from: bench checks its output by it",
    )
    add_kernels(made)
    add_records(made)
    add_allow_non_finite(made)


def _bundle(args: argparse.Namespace) -> int:
    from rt3d_tvm.bundle.make import bundle
    from rt3d_tvm.files.folders import check_outside

    if args.json is not None:
        check_outside(args.json, args.folder)
    with progress("bundle") as stage:
        found = bundle(
            args.source,
            args.folder,
            target=args.target,
            name=args.name,
            embed=args.embed,
            programs=args.program,
            onnx=args.onnx,
            progress=stage,
            **_settings(args),
        )
    print_table(
        [(name, (args.folder / name).stat().st_size / 1e3) for name in found["sha256"]],
        columns=("file", "kB"),
    )
    target, machine = found["target"]["name"], found["processor"]["machine"]
    print(
        f"{args.folder}: target {target} ({machine}), {found['weight_bytes'] / 1e6:.1f} MB of "
        f"weights, {found['planned_activation_bytes'] / 1e6:.1f} MB of activations"
    )
    write_result(args, found)
    return 0


def _settings(args: argparse.Namespace) -> dict:
    """What was asked of the compiler and is not its default."""
    chosen = {
        "group": args.group,
        "winograd": False if args.direct else None,
        "precision": args.precision,
        "accumulate": args.accumulate,
        "strict": True if args.strict else None,
        "batch": args.batch,
        "database": args.database,
        "shipped": False if args.no_records else None,
        "allow_non_finite": True if args.allow_non_finite else None,
    }
    return {name: value for name, value in chosen.items() if value is not None}
