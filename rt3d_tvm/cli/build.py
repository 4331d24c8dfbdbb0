"""rt3d export and compile."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import (
    add_allow_non_finite,
    add_kernels,
    add_output_file,
    add_output_folder,
    add_records,
    add_target,
    compile_options,
    output_folder,
)
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.cli.models import add_model_arguments, input_shape, model_with_weights
from rt3d_tvm.console import print_table, progress

if TYPE_CHECKING:
    from rt3d_tvm.cli.command import Commands

# Reasons printed of operators that are not packed; the manifest has them all.
MAX_REASONS = 5


def add_export(commands: Commands) -> None:
    """`rt3d export`."""
    export = add_command(commands, "export", _export, "write a model as ONNX and check the file")
    add_model_arguments(export)
    add_allow_non_finite(export)
    export.add_argument(
        "--open-batch",
        action="store_true",
        help="leave the batch open, for `rt3d compile --batch`; default: it is 1",
    )
    add_output_file(export, "X.onnx", "the ONNX file to write")


def _export(args: argparse.Namespace) -> int:
    from rt3d_tvm.export import export_onnx

    model, info = model_with_weights(args)
    with progress("export") as stage:
        stage("trace, write and compare with ONNX Runtime")
        report = export_onnx(
            model,
            input_shape(info),
            args.output,
            allow_non_finite=args.allow_non_finite,
            open_batch=args.open_batch,
            description=info.description,
        )
    print_table(sorted(report.operators.items()), columns=("operator", "nodes"))
    print(
        f"{args.output}: {report.bytes / 1e6:.1f} MB, opset {report.opset}, "
        f"max_rel_error {report.max_rel_error:.2g} (limit {report.tolerance:.2g})"
    )
    write_result(args, report)
    return 0


def add_compile(commands: Commands) -> None:
    """`rt3d compile`."""
    build = add_command(
        commands, "compile", _compile, "compile an ONNX file into a folder with model.so"
    )
    build.add_argument("onnx", type=Path, metavar="X.onnx", help="the model to compile")
    add_output_folder(build, "the folder to write: model.so, its weights and manifest.json")
    add_target(build)
    add_kernels(build)
    add_records(build)
    add_allow_non_finite(build)
    build.add_argument(
        "--dump",
        type=output_folder,
        metavar="DIR",
        help="write the module after each phase into DIR",
    )


def _compile(args: argparse.Namespace) -> int:
    from rt3d_tvm.compile.build import compile_onnx
    from rt3d_tvm.files.folders import check_outside

    if args.json is not None:
        check_outside(args.json, args.folder)
    with progress("compile") as stage:
        manifest = compile_onnx(
            args.onnx,
            args.folder,
            compile_options(args),
            database=args.database,
            shipped=not args.no_records,
            allow_non_finite=args.allow_non_finite,
            dump=args.dump,
            progress=stage,
        )
    print_table(
        [
            (
                layer["name"],
                layer["weight"],
                layer["density"],
                layer["kept_macs"] / 1e6,
                layer["group"],
                _types(layer),
                layer["reason"] or layer["float32_reason"] or layer["kernel"],
                "-" if layer["kernel"] is None else layer["tuned"] or "default",
            )
            for layer in manifest["layers"]
        ],
        columns=(
            *("layer", "weight", "density", "kept MMACs", "group", "type", "kernel, or why not"),
            "decisions from",
        ),
    )
    for tensor in manifest["non_finite"]:
        print(f"note: not finite: {tensor}")
    print_unpacked(manifest["layout_changes"], manifest["not_packed"])
    print(
        f"{args.folder}: target {args.target}, {manifest['weight_bytes'] / 1e6:.1f} MB of weights"
    )
    write_result(args, manifest)
    return 0


def print_unpacked(changes: int, reasons: Sequence[str]) -> None:
    """How often activations change their layout, and what stands outside the packed one."""
    print(f"layout changes: {changes}" + ("; not packed:" if reasons else ""))
    told = Counter(reasons).most_common()
    for reason, times in told[:MAX_REASONS]:
        print(f"  {reason}" + (f" ({times} times)" if times > 1 else ""))
    if len(told) > MAX_REASONS:
        print(f"  and {len(told) - MAX_REASONS} others: not_packed in manifest.json")


def _types(layer: dict) -> str:
    """Of a layer's activations, and of its weights where that is another."""
    stored, of_weights = layer["dtype"], layer["weight_dtype"]
    same = layer["kernel"] is None or stored == of_weights
    return stored if same else f"{stored}, weights {of_weights}"
