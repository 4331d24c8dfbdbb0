"""rt3d groups and doctor."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rt3d_tvm.cli.arguments import add_runs, add_target, at_least_one, finite, kernel_group
from rt3d_tvm.cli.command import EXIT_FAILED, add_command, write_result
from rt3d_tvm.console import print_table, progress

if TYPE_CHECKING:
    from rt3d_tvm.cli.command import Commands


def add_groups(commands: Commands) -> None:
    """`rt3d groups`."""
    groups = add_command(
        commands, "groups", _groups, "time kernel group sizes on synthesised layers, choose one"
    )
    source = groups.add_mutually_exclusive_group()
    source.add_argument(
        "--model", metavar="NAME", help="whose layers, of `rt3d models`; default: c3d"
    )
    source.add_argument(
        "--shape",
        nargs="+",
        metavar="MxNxKDxKHxKW@DxHxW",
        help="layers of one's own, such as 64x3x3x3x3@16x112x112",
    )
    groups.add_argument(
        "--layers",
        type=at_least_one,
        default=4,
        metavar="N",
        help="how many layers of the model, the heaviest; default: 4",
    )
    groups.add_argument(
        "--groups",
        type=kernel_group,
        nargs="+",
        metavar="MxN",
        help="kernel groups to time; default: 4x4 8x4 16x4 32x4",
    )
    groups.add_argument("--int8", action="store_true", help="time the layers in 8 bits")
    groups.add_argument(
        "--densities",
        type=finite,
        nargs="+",
        metavar="D",
        help="kept shares of the weights, 0 to 1; default: 0.48 0.28",
    )
    add_target(groups, measured=True)
    add_runs(groups, default=10)
    groups.add_argument(
        "--share",
        type=finite,
        metavar="S",
        help="how much slower than the fastest a smaller group may be, as a share; default: 0.1",
    )


def _groups(args: argparse.Namespace) -> int:
    from collections import Counter

    from rt3d_tvm.conv_shape import ConvShape
    from rt3d_tvm.measure.pruning_group import DENSITIES, GROUPS, SHARE, choose_group, heaviest

    layers: Mapping[ConvShape, int]
    if args.shape is not None:
        layers = Counter(ConvShape.parse(text) for text in args.shape)
    else:
        from rt3d_tvm.models.conv_shapes import conv_shapes

        layers = heaviest(conv_shapes(args.model or "c3d"), args.layers)
    with progress("groups") as stage:
        choice = choose_group(
            layers,
            groups=args.groups or GROUPS,
            densities=args.densities or DENSITIES,
            target=args.target,
            int8=args.int8,
            runs=args.runs,
            share=SHARE if args.share is None else args.share,
            tracker=args.tracker,
            key=args.key,
            progress=stage,
        )
    sizes = list(choice.slowdown)
    rows: dict[tuple[str, int, float], list[float]] = {}
    for timing in choice.timings:
        rows.setdefault((timing.layer, timing.times, timing.density), []).append(timing.ms)
    print_table(
        [(*case, *times) for case, times in rows.items()],
        columns=("layer", "times", "density", *(f"{size} ms" for size in sizes)),
        title=f"target {args.target}, {'in 8 bits, ' if args.int8 else ''}medians of {args.runs} "
        "runs in turns",
    )
    print_table(
        [(size, worst) for size, worst in choice.slowdown.items()],
        columns=("group", "time to the fastest's, at its worst density"),
    )
    print(
        f"recommended: {choice.recommended}, the smallest within {choice.share:.0%} of the fastest "
        "at every density, or else the one nearest to it"
    )
    write_result(args, choice)
    return 0


def add_doctor(commands: Commands) -> None:
    """`rt3d doctor`."""
    add_command(commands, "doctor", _doctor, "check this machine")


def _doctor(args: argparse.Namespace) -> int:
    from rt3d_tvm.measure.doctor import diagnose, healthy

    checks = diagnose()
    print_table(
        [(check.state, check.name, check.found, check.remedy) for check in checks],
        columns=("state", "check", "found", "remedy"),
    )
    write_result(args, {"healthy": healthy(checks), "checks": checks})
    return 0 if healthy(checks) else EXIT_FAILED
