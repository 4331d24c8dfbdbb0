"""rt3d data."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import at_least_one, at_least_zero, output_folder
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
        "folder", type=output_folder, metavar="DIR", help="new, empty, or begun before"
    )
    motion.add_argument("--videos-per-class", type=at_least_one, metavar="N", help="to train on")
    motion.add_argument("--test-videos-per-class", type=at_least_one, metavar="N")
    motion.add_argument("--seed", type=int, help="default: 0")
    motion.add_argument("--size", type=at_least_one, metavar="N", help="side of a frame, even")
    motion.add_argument("--frames", type=at_least_one, metavar="N", help="of a video")
    motion.add_argument("--distractors", type=int, metavar="N", help="smaller objects")
    motion.add_argument("--noise", type=at_least_zero, help="of the noisiest camera, of 255")
    motion.add_argument("--shake", type=at_least_zero, help="of the camera, in shares of the side")


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
