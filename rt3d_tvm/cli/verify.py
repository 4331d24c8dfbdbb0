"""rt3d verify."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import (
    add_folder,
    add_opencl,
    add_remote,
    at_least_one,
    at_least_zero,
)
from rt3d_tvm.cli.command import EXIT_FAILED, add_command, write_result
from rt3d_tvm.cli.preprocessing import add_preprocessing, given_options, given_preprocessing
from rt3d_tvm.console import print_table, printable, progress
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.devices.remote import RemoteArtifact
    from rt3d_tvm.measure.layer_errors import LayerError


def add_verify(commands: Commands) -> None:
    """`rt3d verify`."""
    verify = add_command(commands, "verify", _verify, "compare a compiled model with ONNX Runtime")
    add_folder(verify)
    verify.add_argument(
        "--onnx", type=Path, required=True, metavar="X.onnx", help="what it was compiled from"
    )
    verify.add_argument(
        "--inputs",
        type=at_least_one,
        default=2,
        metavar="N",
        help="random inputs to compare on; default: 2",
    )
    verify.add_argument(
        "--limit",
        type=at_least_zero,
        metavar="E",
        help="largest error that passes, as a share of the largest value; default: 1e-4, fp16 2e-2",
    )
    verify.add_argument(
        "--layers",
        action="store_true",
        help="compare every layer's result on one input, and name the first that is wrong",
    )
    add_opencl(verify)
    verify.add_argument(
        "--video",
        type=Path,
        metavar="FILE",
        help="compare on the clips of this video; default: on random inputs",
    )
    add_preprocessing(verify)
    add_remote(verify)


def _clips(args: argparse.Namespace) -> np.ndarray | None:
    """Those of --video, as the model wants them or the options say."""
    from dataclasses import asdict

    from rt3d_tvm.artifact.description import prepared
    from rt3d_tvm.artifact.format import MANIFEST, read_manifest

    if args.video is None:
        if given := given_options(args):
            raise InputError(f"{given[0]} says how clips are made: --video is needed")
        return None
    from rt3d_tvm.data.clips import read_clips

    manifest = read_manifest(args.folder / MANIFEST)
    used = prepared(manifest, args.folder, **given_preprocessing(args, manifest))
    return read_clips(args.video, **asdict(used)).array


@contextlib.contextmanager
def _there(args: argparse.Namespace) -> Iterator[RemoteArtifact | None]:
    """The artifact on the device of --remote; None without it."""
    if args.tracker is None:
        if args.key is not None:
            raise InputError("--key is of a device: --remote HOST:PORT names its tracker")
        yield None
        return
    if args.key is None:
        raise InputError("--remote needs --key: which device; `rt3d remote list` names them")
    if args.opencl is not None or args.layers:
        given = "--layers" if args.layers else "--opencl"
        raise InputError(f"{given} is of this machine; leave it or --remote out")
    from rt3d_tvm.devices.remote import RemoteDevice

    with (
        progress("verify") as stage,
        RemoteDevice(args.tracker, args.key, wait_s=args.wait, deadline_s=args.deadline) as device,
    ):
        stage(f"upload to {device.key} at {device.address}")
        yield device.load(args.folder)


def _verify(args: argparse.Namespace) -> int:
    if args.layers:
        return _verify_layers(args)
    from dataclasses import asdict

    from rt3d_tvm.artifact.verify import verify

    clips = _clips(args)
    with _there(args) as artifact:
        result = verify(
            args.folder,
            args.onnx,
            inputs=args.inputs,
            limit=args.limit,
            device=args.opencl,
            clips=clips,
            artifact=artifact,
        )
        place = "" if artifact is None else f" on {artifact.device.key}"
    wrong = f"max_rel_error {result.max_rel_error:.2g}"
    if result.not_finite:
        wrong = f"{result.not_finite} values are NaN or infinite where ONNX Runtime's are numbers,"
    print(
        f"{args.folder}{place}: {wrong} over {result.inputs} inputs, "
        f"limit {result.limit:.0e}: {'passed' if result.passed else 'FAILED'}"
    )
    if result.sensitivity is not None:
        print(f"another input moves the output by {result.sensitivity:.2g} of its largest value")
    # No error is known where the output is not finite: JSON's null.
    error = None if result.not_finite else result.max_rel_error
    write_result(args, {**asdict(result), "max_rel_error": error, "passed": result.passed})
    return 0 if result.passed else EXIT_FAILED


def _verify_layers(args: argparse.Namespace) -> int:
    import numpy as np

    from rt3d_tvm.artifact.description import batches
    from rt3d_tvm.artifact.format import MANIFEST, read_manifest
    from rt3d_tvm.artifact.tensors import noise
    from rt3d_tvm.measure.layer_errors import first_wrong, layer_errors

    with _there(args):
        manifest = read_manifest(args.folder / MANIFEST)
        clips = _clips(args)
    x = noise(manifest, np.random.default_rng(0)) if clips is None else batches(clips, manifest)[0]
    errors = layer_errors(args.folder, args.onnx, x, limit=args.limit)
    print_table(
        [
            (" + ".join(each.layers), each.tensor, each.max_rel_error, _verdict(each))
            for each in errors
        ],
        columns=("layer", "beside", "max_rel_error", "verdict"),
        title=f"{args.folder}: each layer beside ONNX Runtime",
    )
    wrong = first_wrong(errors)
    if wrong is None:
        print(f"{args.folder}: all {len(errors)} kernels passed")
    else:
        print(printable(f"{args.folder}: the first wrong one is {wrong}: FAILED"))
    write_result(args, {"layers": errors, "first_wrong": wrong, "passed": wrong is None})
    return 0 if wrong is None else EXIT_FAILED


def _verdict(error: LayerError) -> str:
    return (error.reason or "passed") if error.passed else (error.reason or "FAILED")
