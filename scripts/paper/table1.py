"""The paper's Table 1: three schemes, three algorithms, from one dense checkpoint a seed.

    table1.py --data DIR --cells DIR            the table, or what is left of it
    table1.py --data DIR --cells DIR --quick    C3D, one seed, fewer epochs
    table1.py --preset ucf101 --data UCF --weights c3d=W.safetensors --cells DIR
    table1.py --render FILE.json                print a table again from its cells

``--data`` is a folder that `rt3d data motion` made with the settings of the preset; a folder that
is new or not finished is completed first.

What the folder of cells holds is written in scripts/paper/experiment.py. A run that was stopped
goes on with the same command, on this machine or on another that the folder was copied to, and
several processes may share the work. The settings are in scripts/paper/presets.py; those that
a folder was begun with are the only ones it takes.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from cells import ALGORITHMS, Preset
from experiment_run import parser_of, run

from rt3d_tvm.console import print_table

# What the paper's table has each of them above.
_LESSER = {
    "kgs": ("vanilla",),
    "vanilla": ("filter",),
    "reweighted": ("regularization",),
    "regularization": ("heuristic",),
}


def rows_of(cells: Sequence[dict]) -> list[dict]:
    """One row a line of the table: mean and standard deviation over the seeds that are there."""
    lines: dict[tuple, list[dict]] = {}
    dense = {}
    for record in cells:
        cell = record["cell"]
        if cell["value"] is not None:
            continue
        if cell["algorithm"] is None:
            dense[cell["model"], cell["seed"]] = record["accuracy"]
            continue
        group = "-" if cell["scheme"] == "filter" else cell["group"]
        key = (cell["model"], cell["algorithm"], cell["scheme"], group, cell["rate"])
        lines.setdefault(key, []).append(record)
    rows = []
    for (model, algorithm, scheme, group, rate), records in lines.items():
        accuracies = [100 * r["accuracy"] for r in records]
        bases = [100 * dense[model, r["cell"]["seed"]] for r in records]
        losses = [b - a for a, b in zip(accuracies, bases, strict=True)]
        rows.append(
            {
                "model": model,
                "algorithm": algorithm,
                "scheme": scheme,
                "group": group,
                "rate": rate,
                "seeds": sorted(r["cell"]["seed"] for r in records),
                "reached": statistics.mean(r["rate"] for r in records),
                "dense": statistics.mean(bases),
                "accuracy": statistics.mean(accuracies),
                "deviation": _deviation(accuracies),
                "loss": statistics.mean(losses),
                "loss_deviation": _deviation(losses),
                "by_seed": {
                    str(r["cell"]["seed"]): a for r, a in zip(records, accuracies, strict=True)
                },
            }
        )
    order = {name: i for i, name in enumerate((*ALGORITHMS, "filter", "vanilla", "kgs"))}
    rows.sort(
        key=lambda r: (
            r["model"],
            order[r["algorithm"]],
            r["rate"],
            order[r["scheme"]],
            int(r["group"].partition("x")[0].replace("-", "0")),
        )
    )
    return rows


def gaps_of(rows: Sequence[dict]) -> list[dict]:
    """The orders that the paper's table shows, as gaps in points, paired by seed.

    KGS over Vanilla over Filter for each algorithm, and reweighted over regularization over
    heuristic for KGS, at the same rate and with the same group.
    """
    found = {(r["model"], r["algorithm"], r["scheme"], r["group"], r["rate"]): r for r in rows}
    gaps = []
    for (model, algorithm, scheme, group, rate), row in found.items():
        for key in _LESSER.get(scheme, ()):
            other = (model, algorithm, key, "-" if key == "filter" else group, rate)
            gaps += _gap(row, found.get(other), f"{algorithm}, {scheme} - {key}")
        for key in _LESSER.get(algorithm, ()) if scheme == "kgs" else ():
            other = (model, key, scheme, group, rate)
            gaps += _gap(row, found.get(other), f"{scheme}, {algorithm} - {key}")
    return gaps


def _gap(row: dict, other: dict | None, what: str) -> list[dict]:
    seeds = sorted(row["by_seed"].keys() & other["by_seed"].keys()) if other else []
    if not seeds:
        return []
    gaps = [row["by_seed"][seed] - other["by_seed"][seed] for seed in seeds]
    return [
        {
            "model": row["model"],
            "rate": row["rate"],
            "what": what,
            "gap": statistics.mean(gaps),
            "deviation": _deviation(gaps),
            "seeds": len(seeds),
        }
    ]


def print_gaps(gaps: Sequence[dict]) -> None:
    """With a verdict: an order shows where the gap is larger than its deviation over the seeds."""
    print_table(
        [
            (
                gap["model"],
                f"{gap['rate']:g}x",
                gap["what"],
                _with_spread(gap["gap"], gap["deviation"]),
                gap["seeds"],
                verdict_of(gap["gap"], gap["deviation"]),
            )
            for gap in gaps
        ],
        columns=("model", "rate", "gap", "points", "seeds", "the paper's order"),
    )


def verdict_of(gap: float, deviation: float | None) -> str:
    """What a gap says of the paper's order."""
    if deviation is None:
        return "one seed"
    if abs(gap) <= deviation:
        return "not told apart"
    return "shows" if gap > 0 else "is reversed"


def _deviation(values: Sequence[float]) -> float | None:
    """Of the sample; None for a single seed."""
    return statistics.stdev(values) if len(values) > 1 else None


def print_rows(rows: Sequence[dict]) -> None:
    print_table(
        [
            (
                row["model"],
                row["algorithm"],
                row["scheme"],
                row["group"],
                f"{row['reached']:.2f}x",
                f"{row['dense']:.1f}",
                _with_spread(row["accuracy"], row["deviation"]),
                _with_spread(row["loss"], row["loss_deviation"]),
                len(row["seeds"]),
            )
            for row in rows
        ],
        columns=(
            *("model", "algorithm", "scheme", "group", "rate", "dense %", "pruned %"),
            *("points lost", "seeds"),
        ),
    )


def _with_spread(value: float, deviation: float | None) -> str:
    return f"{value:.1f}" if deviation is None else f"{value:.1f} ± {deviation:.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    args = parser_of(__doc__.partition("\n")[0]).parse_args(argv)
    return run("table1", args, cells_of=Preset.cells, show=show)


def show(cells: Sequence[dict], _preset: Preset) -> None:
    """Print the table, and then the gaps between its lines."""
    rows = rows_of(cells)
    print_rows(rows)
    print_gaps(gaps_of(rows))


if __name__ == "__main__":
    sys.exit(main())
