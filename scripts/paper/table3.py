"""The paper's Table 3: the rate that Vanilla and KGS can bear at the same accuracy.

    python scripts/paper/table3.py --data DIR --cells DIR [--quick] [--loss 1.6]
    python scripts/paper/table3.py --render FILE.json [--loss 1.6]

Both are pruned by the reweighted algorithm at each of `RATES`, from the dense checkpoints of
table1.py and in its folder of cells, which it shares: see there for stopping, going on and
settings. The rate that a scheme can bear is the highest at which it still loses no more than
``--loss`` points against dense in the mean over seeds, on the line between the rates measured
around it. The paper's loss is 1.6 points (C3D) and 2.2 (R(2+1)D).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

from cells import Cell, Preset
from experiment_run import parser_of, run

from rt3d_tvm.console import print_table

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
    parser = parser_of(__doc__.partition("\n")[0])
    parser.add_argument("--loss", type=float, default=1.6, help="points; default: 1.6")
    args = parser.parse_args(argv)

    def show(cells: Sequence[dict], preset: Preset) -> None:
        print_rows(rows_of(cells, group=preset.group, loss=args.loss), loss=args.loss)

    return run("table3", args, cells_of=cells_of, show=show)


if __name__ == "__main__":
    sys.exit(main())
