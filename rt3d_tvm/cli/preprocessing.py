"""Options that say how a video becomes a model's input, in place of what the model says."""

from __future__ import annotations

import argparse
from math import isfinite
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import at_least_one

if TYPE_CHECKING:
    from rt3d_tvm.data.preprocessing import Preprocessing

# The options of single values; --model stands for several.
_SINGLE = ("resize", "mean", "std", "colour_order", "stride", "clips", "crops")


def add_preprocessing(parser: argparse.ArgumentParser, *, several: bool = True) -> None:
    """What replaces the preprocessing that the model says; ``several``: also how many clips."""
    options = parser.add_argument_group(
        "preprocessing", "by default that of the model's training, which the model says"
    )
    options.add_argument(
        "--model", metavar="NAME", help="resize and normalise as this one of `rt3d models` wants"
    )
    options.add_argument(
        "--resize", type=_resize, metavar="N", help="short side of a frame, or HxW, in pixels"
    )
    options.add_argument(
        "--mean",
        type=_colours,
        metavar="R,G,B",
        help="what is taken off the colours of a pixel, which are from 0 to 1",
    )
    options.add_argument(
        "--std", type=_colours, metavar="R,G,B", help="what they are divided by after that"
    )
    options.add_argument(
        "--colour-order", metavar="ORDER", help="order of the channels: rgb or bgr"
    )
    options.add_argument(
        "--stride", type=at_least_one, metavar="N", help="frames from one of a clip to its next"
    )
    if not several:
        parser.set_defaults(clips=None, crops=None)
        return
    options.add_argument(
        "--clips", type=at_least_one, metavar="N", help="clips of a video, averaged"
    )
    options.add_argument(
        "--crops", type=at_least_one, metavar="N", help="crops of each clip, averaged: 1 or 3"
    )


def given_options(args: argparse.Namespace) -> list[str]:
    """Those of the options that are given, as they are written."""
    names = ("model", *_SINGLE)
    return [f"--{n.replace('_', '-')}" for n in names if getattr(args, n) is not None]


def given_preprocessing(args: argparse.Namespace, manifest: dict) -> dict[str, object]:
    """What the options say, for `artifact.description.prepared`; empty where none is given."""
    from rt3d_tvm.models import clip_model_spec

    given = {name: getattr(args, name) for name in _SINGLE if getattr(args, name) is not None}
    if args.model is None:
        return given
    published, shape = clip_model_spec(args.model), manifest["inputs"][0]["shape"]
    if len(shape) == 5:  # of another, `prepared` says what is wrong
        wanted = published.preprocessing(frames=shape[2], size=min(shape[3:]))
        names = ("resize", "mean", "std", "colour_order", "stride")
        given = {**{name: getattr(wanted, name) for name in names}, **given}
    return given


def described_preprocessing(used: Preprocessing | None) -> list[tuple[str, str]]:
    """Rows of a table that say what is done, in the order in which it is."""
    if used is None:
        return [("preprocessing", "not stated: --model, or --resize, --mean and --std give it")]
    sides = used.resize if isinstance(used.resize, tuple) else None
    places = "in the middle" if used.crops == 1 else f"at {used.crops} places"
    return [
        ("clips", f"{used.clips} of {used.frames} frames, {used.stride} apart"),
        ("resize", "x".join(map(str, sides)) if sides else f"short side to {used.resize}"),
        ("crop", f"{used.size}x{used.size} {places}"),
        ("pixel", "(value / 255 - mean) / std"),
        ("mean", f"red {used.mean[0]:g}, green {used.mean[1]:g}, blue {used.mean[2]:g}"),
        ("std", f"red {used.std[0]:g}, green {used.std[1]:g}, blue {used.std[2]:g}"),
        ("channels", used.colour_order),
    ]


def _resize(text: str) -> int | tuple[int, ...]:
    refusal = argparse.ArgumentTypeError(
        f"{text!r}: pixels of the short side, such as 128, or HEIGHTxWIDTH are accepted"
    )
    try:
        sides = tuple(at_least_one(side) for side in text.split("x"))
    except argparse.ArgumentTypeError as error:
        raise refusal from error
    if len(sides) > 2:
        raise refusal
    return sides[0] if len(sides) == 1 else sides


def _colours(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(map(isfinite, numbers)):
        raise argparse.ArgumentTypeError(
            f"{text!r}: three numbers are accepted, such as 0.45,0.45,0.45"
        )
    return numbers
