"""What table1.py and table3.py share: the command line, and the run from data to cells."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cells import Cell, Preset, read_cells
from experiment import Experiment
from presets import PRESETS

from rt3d_tvm.console import progress, write_json
from rt3d_tvm.errors import InputError


def parser_of(description: str) -> argparse.ArgumentParser:
    """The options that both tables have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, metavar="DIR", help="the videos")
    parser.add_argument("--cells", type=Path, metavar="DIR", help="where results are kept")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="motion")
    parser.add_argument("--quick", action="store_true", help="C3D, one seed, fewer epochs")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="some of the preset's")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="reading processes")
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="MODEL=FILE",
        help="pretrained weights that the dense training starts from",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all cells as JSON")
    parser.add_argument("--render", type=Path, metavar="FILE", help="print the table in this file")
    return parser


def run(
    name: str,
    args: argparse.Namespace,
    *,
    cells_of: Callable[[Preset, str, int], Iterable[Cell]],
    show: Callable[[Sequence[dict], Preset], None],
) -> int:
    """Train the cells of every model and seed that are not there, and show them all.

    The exit status is 2 where something is wrong with what was asked for.
    """
    try:
        preset = PRESETS["quick" if args.quick else args.preset]
        if args.render is not None:
            cells = _written(args.render)
        else:
            cells = _trained(name, args, preset, cells_of)
            if args.json is not None:
                write_json(args.json, {"preset": preset, "cells": cells})
        show(cells, preset)
    except InputError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    return 0


def _written(path: Path) -> list[dict]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a file that --json wrote: {error}") from error


def _trained(
    name: str,
    args: argparse.Namespace,
    preset: Preset,
    cells_of: Callable[[Preset, str, int], Iterable[Cell]],
) -> list[dict]:
    if args.data is None or args.cells is None:
        raise InputError("--data and --cells are needed; see --help")
    models = args.models or list(preset.seeds)
    if unknown := [model for model in models if model not in preset.seeds]:
        raise InputError(
            f"model {unknown[0]}: {' or '.join(preset.seeds)} is accepted by preset {preset.name}"
        )
    experiment = Experiment(
        args.cells,
        preset,
        args.data,
        device=args.device,
        weights={m: Path(w) for m, _, w in (text.partition("=") for text in args.weights)},
        workers=args.workers,
    )
    print(f"{name}: preset {preset.name} on {experiment.machine}", flush=True)
    with progress("data") as stage:
        experiment.prepare_data(lambda done, total: stage(f"{done} of {total} videos"))
    for model in models:
        for seed in preset.seeds[model]:
            experiment.run(cells_of(preset, model, seed))
    return read_cells(experiment.root)
