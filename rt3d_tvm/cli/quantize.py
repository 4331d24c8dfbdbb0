"""rt3d quantize."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import add_output_file, at_least_one, at_least_zero
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.cli.preprocessing import add_preprocessing, given_options, given_preprocessing
from rt3d_tvm.console import print_table, printable, progress
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.data.preprocessing import Preprocessing
    from rt3d_tvm.quantize import Quantization
    from rt3d_tvm.quantize.accuracy import Labelled
    from rt3d_tvm.quantize.float_model import FloatModel

# What is taken only together with --data.
_OF_DATA = ("kind", "fold", "split")


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
    labelled.add_argument(
        "--data", type=Path, metavar="DIR", help="a data set to measure the accuracy on"
    )
    quantize.add_argument(
        "--kind", metavar="KIND", help="kind of data set: auto (default), ucf101, hmdb51, ..."
    )
    quantize.add_argument(
        "--fold",
        type=at_least_one,
        metavar="N",
        help="split of ucf101 and hmdb51, 1 (default) to 3",
    )
    quantize.add_argument(
        "--split", choices=("train", "test"), help="part of the data set; default: test"
    )
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
    if args.data is None and (given := [n for n in _OF_DATA if getattr(args, n) is not None]):
        raise InputError(f"--{given[0]} is of a data set: --data DIR is needed")
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
    return None if args.data is None else _dataset(args, model)


def _dataset(args: argparse.Namespace, model: FloatModel) -> Labelled:
    """The testing items of --data, cut as the model says."""
    from rt3d_tvm.artifact.description import prepared
    from rt3d_tvm.data.datasets import open_dataset

    manifest = model.manifest
    used = prepared(manifest, args.onnx, **given_preprocessing(args, manifest))
    found = open_dataset(
        args.data,
        training=False,
        kind=args.kind or "auto",
        split=args.split or "test",
        fold=args.fold or 1,
        cache=args.max_drop is not None,
        **used.dataset_arguments(),
    )
    classes = manifest["outputs"][0]["shape"][-1]
    if len(found.classes) != classes:
        raise InputError(f"{args.onnx} has {classes} classes; {args.data} has {len(found.classes)}")
    for index, known in enumerate(manifest["labels"] or ()):
        if known != found.classes[index]:
            raise InputError(
                f"class {index} of {args.onnx} is {known!r}, that of {args.data} is "
                f"{found.classes[index]!r}; a data set of the model's own classes is accepted"
            )
    return found
