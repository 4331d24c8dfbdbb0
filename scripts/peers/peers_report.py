"""What compare_peers.py measured, as tables and a chart.

    python scripts/peers/peers_report.py PEERS.json

Draws PEERS.png beside the file; nothing is measured, so both can be had again at any time.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from figures import PRECISIONS, WITHIN, eta, is_int8, kept_macs, ratio, sparse_kinds
from peer_requirements import requirements
from peers_chart import draw

from rt3d_tvm.console import print_table


def report(path: Path) -> None:
    """Print every table of a peers.json and draw its chart."""
    document = json.loads(path.read_text(encoding="utf-8"))
    for model in document["models"].values():
        for precision in PRECISIONS:
            rows = [r for r in model["engines"] if is_int8(r["kind"]) == (precision == "int8")]
            if rows:
                print_engines(model, rows, precision, document["threads"])
        print_eta(model)
        print_memory(model)
    print_table(
        [
            (entry.model, entry.what, entry.measured, entry.must, entry.aim, entry.verdict)
            for name, model in document["models"].items()
            for entry in requirements(name, model)
        ],
        columns=("model", "requirement", "measured", "must", "aim", "verdict"),
        title="requirements: times as fast, or as little",
    )
    chart = path.with_suffix(".png")
    draw(document, chart)
    print(path)
    print(chart)


def print_engines(model: dict, rows: list[dict], precision: str, threads: int) -> None:
    """Every row of one precision: its time, beside the fastest of the others and its time alone."""
    others = [row["median_ms"] for row in rows if row["engine"] != "rt3d" and row["median_ms"]]
    best, peak = min(others, default=None), statistics.median(model["fma_peak_gflops"])
    cells = []
    for row in rows:
        ms, over, error = row["median_ms"], row["turns_over_alone"], row["rel_error"]
        # The peak is of float32: int8 has another one.
        counted = row["kind"] in model["layers"] and precision == "float32"
        macs = kept_macs(model, row["kind"]) if counted else None
        share = ratio(macs and 2 * macs / 1e6, ms and ms * peak)
        cells.append(
            (
                row["title"],
                row["version"] or "-",
                ms,
                len(row["samples_ms"]),
                row["alone_median_ms"],
                "-" if over is None else f"{over:.2f}",
                ratio(best, ms),
                "-" if share is None else f"{share:.0%}",
                "-" if error is None else f"{error:.0e}",
            )
        )
    print_table(
        cells,
        columns=(
            *("engine", "version", "median ms", "runs", "alone ms", "turns / alone"),
            *("x best peer", "of FMA peak", "error"),
        ),
        title=f"{model['title']}, {precision}: {threads} threads, runs in turns, all others "
        f"stopped; {peak:.0f} GFLOP/s FMA peak; pruned to {model['rate']:g}x",
    )
    for row in rows:
        for note in notes(row):
            print(f"  {row['title']}: {note}")


def notes(row: dict) -> list[str]:
    """What a reader of a row's figures has to know, a sentence each."""
    if row["failed"]:
        return [row["failed"]]
    found = []
    if row["slow"]:
        found.append(f"slow, so only {len(row['samples_ms'])} runs")
    if row["alone_failed"]:
        found.append(f"alone: {row['alone_failed']}")
    over = row["turns_over_alone"]
    if over is not None and abs(over - 1) > WITHIN:
        found.append(f"in turns it takes {over:.2f} times as long as alone: not a fair figure")
    return found


def print_eta(model: dict) -> None:
    """Speed-up over dense and eta of each pruning, over the whole model and its convolutions."""
    rows = []
    for kind in (kind for each in PRECISIONS for kind in sparse_kinds(model, each)):
        whole, over_convolutions, rate = eta(model, kind)
        rows.append((kind, rate, whole and rate and whole * rate, whole, over_convolutions))
    print_table(
        rows,
        columns=("pruning", "rate", "x dense", "eta, whole model", "eta, convolutions"),
        title=f"{model['title']}: eta = speed-up over the own direct dense run, in int8 over "
        "the own dense int8 run, / rate",
    )


def print_memory(model: dict) -> None:
    """What each process took at its peak, and what of it before it had a model."""
    if not model["memory"]:
        print("memory: left out, there is no .venv-plain; `make peers` makes it")
        return
    rows = [
        (
            entry["title"],
            entry.get("peak_mb"),
            entry.get("imports_mb"),
            entry["peak_mb"] - entry["imports_mb"] if not entry["failed"] else None,
            entry.get("weights_mb"),
            entry.get("activations_mb"),
        )
        for entry in model["memory"]
    ]
    print_table(
        rows,
        columns=("engine", "peak MB", "imports", "less imports", "weights", "activations"),
        title=f"{model['title']}: memory to load and run, in an environment without torch",
    )


if __name__ == "__main__":
    report(Path(sys.argv[1]))
