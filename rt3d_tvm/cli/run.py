"""rt3d run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import add_folder, add_opencl, add_threads, at_least_one
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.console import print_table, printable

if TYPE_CHECKING:
    from rt3d_tvm.artifact.load import Artifact
    from rt3d_tvm.artifact.opencl.artifact import OpenCLArtifact
    from rt3d_tvm.cli.command import Commands
    from rt3d_tvm.devices.remote import RemoteArtifact


def add_run(commands: Commands) -> None:
    """`rt3d run`."""
    run = add_command(commands, "run", _run, "classify a video")
    add_video(run)
    add_opencl(run)


def _run(args: argparse.Namespace) -> int:
    from rt3d_tvm.artifact.opencl.artifact import load_here

    return classify(args, lambda: load_here(args.folder, threads=args.threads, device=args.opencl))


def add_video(parser: argparse.ArgumentParser) -> None:
    """A compiled model, a video, and how its clips are prepared."""
    add_folder(parser)
    parser.add_argument("video", type=Path)
    parser.add_argument("--labels", type=Path, metavar="FILE", help="classes' names, one a line")
    parser.add_argument("--model", help="prepare the frames as this one of `rt3d models` wants")
    parser.add_argument("--clips", type=at_least_one, default=1, metavar="N", help="averaged")
    parser.add_argument("--stride", type=at_least_one, default=1, metavar="N", help="of frames")
    add_threads(parser)


def classify(
    args: argparse.Namespace, loader: Callable[[], Artifact | OpenCLArtifact | RemoteArtifact]
) -> int:
    """Classify the video of the arguments with what the loader loads."""
    from rt3d_tvm.classify import Preprocessing, classify_video, read_labels
    from rt3d_tvm.models import clip_model_spec

    preprocessing = None
    if args.model is not None:
        spec = clip_model_spec(args.model)
        preprocessing = Preprocessing(resize=spec.resize, mean=spec.mean, std=spec.std)
    result = classify_video(
        args.folder,
        args.video,
        preprocessing=preprocessing,
        labels=None if args.labels is None else read_labels(args.labels),
        clips=args.clips,
        stride=args.stride,
        loader=loader,
    )
    for note in result.notes:
        print(printable(f"note: {note}"))
    print_table(
        [(guess.index, guess.label or "-", guess.probability) for guess in result.top],
        columns=("class", "label", "probability"),
        title=f"{args.video}: {result.clips} clips",
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
