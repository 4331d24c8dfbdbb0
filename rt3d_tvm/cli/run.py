"""rt3d run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import add_folder, add_opencl, add_threads
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.cli.preprocessing import (
    add_preprocessing,
    described_preprocessing,
    given_preprocessing,
)
from rt3d_tvm.console import print_table, printable
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from rt3d_tvm.artifact.load import Artifact
    from rt3d_tvm.artifact.opencl.artifact import OpenCLArtifact
    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.data.preprocessing import Preprocessing
    from rt3d_tvm.devices.remote import RemoteArtifact


def add_run(commands: Commands) -> None:
    """`rt3d run`."""
    run = add_command(commands, "run", _run, "classify a video")
    add_video(run)
    add_opencl(run)


def _run(args: argparse.Namespace) -> int:
    if args.describe:
        return describe(args)
    from rt3d_tvm.artifact.opencl.artifact import load_here

    return classify(args, lambda: load_here(args.folder, threads=args.threads, device=args.opencl))


def add_video(parser: argparse.ArgumentParser) -> None:
    """A compiled model, a video, and how its clips are prepared."""
    add_folder(parser)
    parser.add_argument("video", type=Path, nargs="?")
    parser.add_argument(
        "--describe",
        action="store_true",
        help="show the model's input, its preprocessing and its labels; no video is needed",
    )
    parser.add_argument("--labels", type=Path, metavar="FILE", help="classes' names, one per line")
    add_preprocessing(parser)
    add_threads(parser)


def classify(
    args: argparse.Namespace, loader: Callable[[], Artifact | OpenCLArtifact | RemoteArtifact]
) -> int:
    """Classify the video of the arguments with what the loader loads."""
    from rt3d_tvm.artifact.description import prepared
    from rt3d_tvm.artifact.format import MANIFEST, read_manifest
    from rt3d_tvm.classify import check_labels, classify_video
    from rt3d_tvm.data.labels import read_labels
    from rt3d_tvm.data.video_file import promised_frames
    from rt3d_tvm.models import clip_model_spec

    # All that is wrong is told before anything is loaded.
    if args.video is None:
        raise InputError("a VIDEO is needed, or --describe to show how the model wants one")
    if args.model is not None:
        clip_model_spec(args.model)
    promised_frames(args.video)
    manifest = read_manifest(args.folder / MANIFEST)
    labels = None if args.labels is None else read_labels(args.labels)
    check_labels(labels, manifest)
    result = classify_video(
        args.folder,
        args.video,
        preprocessing=prepared(manifest, args.folder, **given_preprocessing(args, manifest)),
        labels=labels,
        loader=loader,
    )
    for note in result.notes:
        print(printable(f"note: {note}"))
    print_table(
        [(guess.index, guess.label or "-", guess.probability) for guess in result.top],
        columns=("class", "label", "probability"),
        title=f"{args.video}: {_sampled(result.preprocessing)}",
    )
    print_table(
        [
            ("load", result.load_ms),
            ("decode", result.decode_ms),
            ("preprocess", result.preprocess_ms),
            ("inference", result.inference_ms),
        ],
        columns=("stage", "ms"),
    )
    write_result(args, result)
    return 0


def _sampled(used: Preprocessing) -> str:
    return f"{used.clips} clips" + ("" if used.crops == 1 else f" of {used.crops} crops")


def describe(args: argparse.Namespace) -> int:
    """Show how the model is called, and how a video becomes its input; nothing is loaded."""
    from rt3d_tvm.artifact.description import description_of, prepared
    from rt3d_tvm.artifact.format import MANIFEST, read_manifest
    from rt3d_tvm.classify import check_labels
    from rt3d_tvm.data.labels import read_labels

    manifest = read_manifest(args.folder / MANIFEST)
    own, given = description_of(manifest, args.folder), given_preprocessing(args, manifest)
    used = own.preprocessing
    if given:
        used = prepared(manifest, args.folder, **given)
    labels = own.labels if args.labels is None else read_labels(args.labels)
    check_labels(labels, manifest)
    tensors = [("input", each) for each in manifest["inputs"]]
    tensors += [("output", each) for each in manifest["outputs"]]
    print_table(
        [
            *((what, f"{each['name']}: {each['dtype']} {each['shape']}") for what, each in tensors),
            *described_preprocessing(used),
            ("labels", "not stated: --labels FILE gives them" if labels is None else len(labels)),
        ],
        columns=("of the model", "value"),
        title=str(args.folder),
    )
    for index, label in enumerate(labels or ()):
        print(printable(f"class {index}: {label}"))
    write_result(
        args,
        {
            "inputs": manifest["inputs"],
            "outputs": manifest["outputs"],
            "preprocessing": used,
            "labels": labels,
        },
    )
    return 0
