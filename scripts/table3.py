"""The paper's Table 3: the rate that Vanilla and KGS can bear at the same accuracy.

    python scripts/table3.py --data DIR --cells DIR [--quick] [--loss 1.6]
    python scripts/table3.py --render FILE.json [--loss 1.6]

Both are pruned by the reweighted algorithm at each of `RATES`, from the dense checkpoints of
table1.py and in its folder of cells, which it shares: see there for stopping, going on and
settings. The rate that a scheme can bear is the highest at which it still loses no more than
``--loss`` points against dense in the mean over seeds, on the line between the rates measured
around it. The paper's loss is 1.6 points (C3D) and 2.2 (R(2+1)D).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.experiment import Cell, Experiment, Preset, read_cells
from rt3d_tvm.prune.presets import PRESETS
from rt3d_tvm.report import print_table, progress, write_json

SCHEMES = ("vanilla", "kgs")
RATES = (1.6, 2.0, 2.6, 3.6, 5.0)


def cells_of(preset: Preset, model: str, seed: int) -> Iterator[Cell]:
    """Both schemes at every rate."""
    for rate in RATES:
        for scheme in SCHEMES:
            yield preset.cell(model, seed, "reweighted", scheme, rate)


def losses(cells: Sequence[dict], model: str, scheme: str, group: str) -> dict[float, list[float]]:
    """Points lost against dense, one of each seed, by the rate that was reached."""
    mine = [record for record in cells if record["cell"]["model"] == model]
    dense = {r["cell"]["seed"]: r["accuracy"] for r in mine if r["cell"]["algorithm"] is None}
    found: dict[float, list[dict]] = {}
    for record in mine:
        cell = record["cell"]
        wanted = (cell["algorithm"], cell["scheme"], cell["group"]) == ("reweighted", scheme, group)
        if wanted and cell["value"] is None and cell["rate"] in RATES:
            found.setdefault(cell["rate"], []).append(record)
    return {
        statistics.mean(r["rate"] for r in records): [
            100 * (dense[r["cell"]["seed"]] - r["accuracy"]) for r in records
        ]
        for _, records in sorted(found.items())
    }


def bearable_rate(points: Sequence[tuple[float, float]], loss: float) -> tuple[float | None, str]:
    """The rate up to which no more than ``loss`` is lost, from (rate, loss) in order of rates.

    With a word on it where it lies outside what was measured: then it is a bound.
    """
    points = [(1.0, 0.0), *points]
    if len(points) == 1:
        return None, "not measured"
    # From the highest rate down: an accidental dip at a low one does not end it.
    for (low, before), (high, after) in reversed(list(pairwise(points))):
        if after <= loss:
            return high, "at least" if high == points[-1][0] else ""
        if before <= loss:
            return low + (high - low) * (loss - before) / (after - before), ""
    return None, "none"


def rows_of(cells: Sequence[dict], *, group: str, loss: float) -> list[dict]:
    """A row for each model and scheme that has cells."""
    rows = []
    for model in sorted({record["cell"]["model"] for record in cells}):
        for scheme in SCHEMES:
            measured = losses(cells, model, scheme, group)
            if not measured:
                continue
            points = [(rate, statistics.mean(lost)) for rate, lost in measured.items()]
            rate, note = bearable_rate(points, loss)
            rows.append(
                {
                    "model": model,
                    "scheme": scheme,
                    "rate": rate,
                    "note": note,
                    "lost": {f"{reached:.2f}": lost for reached, lost in measured.items()},
                }
            )
    return rows


def print_rows(rows: Sequence[dict], *, loss: float) -> None:
    print_table(
        [
            (
                row["model"],
                row["scheme"],
                "-" if row["rate"] is None else f"{row['note']} {row['rate']:.2f}x".strip(),
                "  ".join(
                    f"{rate}x {statistics.mean(lost):.1f}"
                    + (f" ± {statistics.stdev(lost):.1f}" if len(lost) > 1 else "")
                    for rate, lost in row["lost"].items()
                ),
            )
            for row in rows
        ],
        columns=("model", "scheme", f"rate at {loss:g} points lost", "points lost at"),
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    try:
        return _run(args)
    except InputError as error:
        print(f"table3: error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    preset = PRESETS["quick" if args.quick else args.preset]
    if args.render is not None:
        cells = json.loads(args.render.read_text(encoding="utf-8"))["cells"]
        print_rows(rows_of(cells, group=preset.group, loss=args.loss), loss=args.loss)
        return 0
    if args.data is None or args.cells is None:
        raise InputError("--data and --cells are needed; see --help")
    experiment = Experiment(args.cells, preset, args.data, device=args.device, workers=args.workers)
    print(f"table3: preset {preset.name} on {experiment.machine}", flush=True)
    with progress("data") as stage:
        experiment.prepare_data(lambda done, total: stage(f"{done} of {total} videos"))
    for model in args.models or preset.seeds:
        for seed in preset.seeds[model]:
            experiment.run(cells_of(preset, model, seed))
    cells = read_cells(experiment.root)
    print_rows(rows_of(cells, group=preset.group, loss=args.loss), loss=args.loss)
    if args.json is not None:
        write_json(args.json, {"preset": preset, "cells": cells})
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="the videos")
    parser.add_argument("--cells", type=Path, metavar="DIR", help="where results are kept")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="motion")
    parser.add_argument("--quick", action="store_true", help="C3D, one seed, fewer epochs")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="some of the preset's")
    parser.add_argument("--loss", type=float, default=1.6, help="points; default: 1.6")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="reading processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all cells as JSON")
    parser.add_argument("--render", type=Path, metavar="FILE", help="print the table in this file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
