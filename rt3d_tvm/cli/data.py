"""rt3d data."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import at_least_one, at_least_zero, output_folder, whole_number
from rt3d_tvm.cli.command import add_command, write_result
from rt3d_tvm.console import progress

if TYPE_CHECKING:
    from rt3d_tvm.cli.command import Commands


def add_data(commands: Commands) -> None:
    """`rt3d data motion`."""
    data = commands.add_parser("data", help="make data sets", description="Make data sets.")
    kinds = data.add_subparsers(required=True, metavar="KIND")
    motion = add_command(
        kinds, "motion", _data_motion, "videos whose classes differ by motion alone"
    )
    motion.add_argument(
        "folder", type=output_folder, metavar="DIR", help="a folder, new, empty, or begun before"
    )
    motion.add_argument(
        "--videos-per-class",
        type=at_least_one,
        metavar="N",
        help="videos of a class to train on; default: 200",
    )
    motion.add_argument(
        "--test-videos-per-class",
        type=at_least_one,
        metavar="N",
        help="videos of a class to test on; default: 100",
    )
    motion.add_argument(
        "--seed", type=whole_number, metavar="N", help="seed of the set; default: 0"
    )
    motion.add_argument(
        "--size",
        type=at_least_one,
        metavar="N",
        help="side of a frame, in pixels, an even number from 32 on; default: 64",
    )
    motion.add_argument(
        "--frames", type=at_least_one, metavar="N", help="frames of a video; default: 24"
    )
    motion.add_argument(
        "--distractors",
        type=whole_number,
        metavar="N",
        help="smaller objects in a video; default: 3",
    )
    motion.add_argument(
        "--noise",
        type=at_least_zero,
        metavar="E",
        help="standard deviation of the noisiest camera, of 255; default: 16",
    )
    motion.add_argument(
        "--shake",
        type=at_least_zero,
        metavar="S",
        help="how far the camera strays, as a share of a frame's side; default: 0",
    )


def _data_motion(args: argparse.Namespace) -> int:
    from dataclasses import fields

    from rt3d_tvm.data.motion import CLASSES, MotionSettings, write_motion

    given = {field.name: getattr(args, field.name, None) for field in fields(MotionSettings)}
    settings = MotionSettings(**{name: value for name, value in given.items() if value is not None})
    with progress("data motion") as stage:
        for done, total in write_motion(args.folder, settings):
            if done * 10 // total > (done - 1) * 10 // total:
                stage(f"{done} of {total} videos")
    counts = {split: settings.videos(split) * len(CLASSES) for split in ("train", "test")}
    print(
        f"{args.folder}: {len(CLASSES)} classes, {counts['train']} videos to train and "
        f"{counts['test']} to test on"
    )
    write_result(args, {"settings": settings, "classes": CLASSES, **counts})
    return 0
