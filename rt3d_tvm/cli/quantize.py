"""rt3d quantize."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import add_output_file, at_least_one, at_least_zero
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.cli.preprocessing import add_preprocessing, given_options, given_preprocessing
from rt3d_tvm.cli.videos import add_test_videos, chosen_videos
from rt3d_tvm.console import print_table, printable, progress
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.data.preprocessing import Preprocessing
    from rt3d_tvm.quantize import Quantization
    from rt3d_tvm.quantize.accuracy import Labelled
    from rt3d_tvm.quantize.float_model import FloatModel


def add_quantize(commands: Commands) -> None:
    """`rt3d quantize`."""
    quantize = add_command(
        commands, "quantize", _quantize, "turn an ONNX file into one in 8 bits, calibrated on clips"
    )
    quantize.add_argument("onnx", type=Path, metavar="X.onnx", help="a model in float32")
    quantize.add_argument(
        "--clips",
        dest="source",
        type=Path,
        required=True,
        metavar="DIR|FILE.npy",
        help="to calibrate on: a folder of videos, or clips (N, C, D, H, W) as a model takes them",
    )
    quantize.add_argument(
        "--count", type=at_least_one, metavar="N", help="clips to calibrate on; default: 32"
    )
    quantize.add_argument(
        "--method",
        metavar="NAME",
        help="how ranges are found: minmax (default), entropy or percentile",
    )
    quantize.add_argument(
        "--exclude", nargs="+", metavar="LAYER", help="layers that stay in float32; default: none"
    )
    labelled = quantize.add_mutually_exclusive_group()
    labelled.add_argument(
        "--labels", type=Path, metavar="FILE.npy", help="the class of each clip in --clips FILE.npy"
    )
    add_test_videos(quantize, group=labelled)
    quantize.add_argument(
        "--max-drop",
        type=at_least_zero,
        metavar="POINTS",
        help="leave the noisiest layers in float32 until at most so many points of accuracy (0 to "
        "100) are lost; default: all layers in 8 bits",
    )
    add_preprocessing(quantize, several=False)
    add_output_file(quantize, "X-int8.onnx", "the quantised ONNX file to write")


def _quantize(args: argparse.Namespace) -> int:
    from rt3d_tvm.quantize import COUNT, METHOD, quantize_onnx
    from rt3d_tvm.quantize.float_model import read_float_model

    _check_together(args)
    model = read_float_model(args.onnx)
    labelled = _labelled(args, model)
    with progress("quantize") as stage:
        result = quantize_onnx(
            model,
            args.output,
            args.source,
            count=COUNT if args.count is None else args.count,
            method=METHOD if args.method is None else args.method,
            preprocessing=_preprocessing(args, model),
            exclude=args.exclude or (),
            labelled=labelled,
            max_drop=args.max_drop,
            progress=stage,
        )
    _print(result)
    write_result(args, result)
    return 0


def _print(result: Quantization) -> None:
    for note in result.notes:
        print(printable(f"note: {note}"))
    print_table(
        [
            (
                layer.name,
                layer.dtype,
                layer.own_snr_db,
                layer.snr_db,
                layer.weight_snr_db,
                layer.reason or "",
            )
            for layer in result.layers
        ],
        columns=("layer", "type", "own SNR, dB", "SNR, dB", "weights, dB", "why float32"),
    )
    if result.accuracy is not None and result.float_accuracy is not None:
        lost = 100 * (result.float_accuracy - result.accuracy)
        print(
            f"accuracy {result.accuracy:.2%}, in float32 {result.float_accuracy:.2%}: "
            f"{lost:.2f} points lost"
        )
    many = sum(layer.dtype == "int8" for layer in result.layers)
    print(
        printable(
            f"{result.path}: {result.bytes / 1e6:.1f} MB, {many} of {len(result.layers)} layers in "
            f"int8, {result.method} on {result.clips} clips"
        )
    )


def _check_together(args: argparse.Namespace) -> None:
    """InputError for options that mean nothing without others."""
    chosen_videos(args)
    if args.max_drop is not None and args.labels is None and args.data is None:
        raise InputError(
            "--max-drop needs labelled clips: --data DIR, or --labels FILE.npy for those of --clips"
        )
    if args.labels is not None and args.source.is_dir():
        raise InputError(
            f"--labels is of the clips in a file: --clips {args.source} is a folder; --data DIR "
            "takes labelled videos"
        )
    if (given := given_options(args)) and not args.source.is_dir() and args.data is None:
        raise InputError(
            f"{given[0]} says how clips are cut from videos: --clips DIR or --data DIR is needed"
        )


def _preprocessing(args: argparse.Namespace, model: FloatModel) -> Preprocessing | None:
    """What the options make of the model's own; None where they say nothing."""
    from rt3d_tvm.artifact.description import prepared

    if not given_options(args):
        return None
    manifest = model.manifest
    return prepared(manifest, args.onnx, **given_preprocessing(args, manifest))


def _labelled(args: argparse.Namespace, model: FloatModel) -> Labelled | None:
    """The labelled clips of --labels or --data; None where neither is given."""
    from rt3d_tvm.quantize.accuracy import LabelledClips
    from rt3d_tvm.quantize.clips import check_clips, load_array

    if args.labels is not None:
        clips = load_array(args.source)
        check_clips(clips, model.manifest["inputs"][0]["shape"], args.source)
        return LabelledClips(clips, load_array(args.labels), args.labels)
    if args.data is None:
        return None
    from rt3d_tvm.reporting.accuracy import labelled_videos

    # With --max-drop they are read again and again.
    how = {**chosen_videos(args), "cache": args.max_drop is not None}
    given = given_preprocessing(args, model.manifest)
    return labelled_videos(args.data, model.manifest, args.onnx, how, **given)
