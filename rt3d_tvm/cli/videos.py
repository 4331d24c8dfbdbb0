"""Options that name labelled videos: where they are, and how they are parted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rt3d_tvm.cli.arguments import at_least_one
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

# What says how the videos of --data are read, and means nothing without them.
OF_VIDEOS = ("kind", "fold")
_OF_TESTS = (*OF_VIDEOS, "split")


def add_videos(
    parser: argparse.ArgumentParser,
    text: str,
    *,
    required: bool = False,
    group: argparse._ActionsContainer | None = None,
) -> None:
    """The data set; ``text`` says what for, ``group`` is what its --data excludes others of."""
    (group or parser).add_argument("--data", type=Path, metavar="DIR", required=required, help=text)
    parser.add_argument(
        "--kind",
        metavar="KIND",
        help="kind of data set: auto (default), folder (class folders), csv (path,label), ucf101, "
        "hmdb51, kinetics or motion",
    )
    parser.add_argument(
        "--fold",
        type=at_least_one,
        metavar="N",
        help="which split of ucf101 and hmdb51, or which part of one's own videos to test on: 1 "
        "(default) to 3",
    )


def add_test_videos(
    parser: argparse.ArgumentParser, *, group: argparse._ActionsContainer | None = None
) -> None:
    """A data set to measure an accuracy on."""
    add_videos(parser, "labelled videos to measure the accuracy on", group=group)
    parser.add_argument(
        "--split", choices=("train", "test"), help="part of the data set; default: test"
    )


def chosen_videos(args: argparse.Namespace) -> Mapping[str, Any]:
    """Those of `add_test_videos`, as `rt3d_tvm.data.datasets.open_dataset` takes them.

    InputError for options of a data set without one.
    """
    given = {name: getattr(args, name) for name in _OF_TESTS if getattr(args, name) is not None}
    if args.data is None and given:
        raise InputError(f"--{next(iter(given))} is of a data set: --data DIR is needed")
    return given
