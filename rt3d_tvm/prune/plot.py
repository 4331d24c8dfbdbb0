"""Loss, accuracy and density over the epochs of a training, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rt3d_tvm.files.whole_file import whole_file

# A title and the columns of the metrics that it shows.
_PANELS = (
    ("loss", ("loss", "penalty")),
    ("accuracy", ("train_accuracy", "test_accuracy")),
    ("density", ("density", "rms_density")),
)


def plot_training(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a PNG from the rows of metrics.jsonl; a value that a row lacks is left out."""
    # Not pyplot: it keeps state and looks for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (title, columns) in zip(figure.subplots(1, 3), _PANELS, strict=True):
        for column in columns:
            points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=column.replace("_", " "))
        phases = [row["phase"] for row in rows]
        for index in range(1, len(rows)):
            if phases[index] != phases[index - 1]:
                axes.axvline(rows[index]["epoch"] - 0.5, color="0.7", linewidth=0.8)
        axes.set(title=title, xlabel="epoch")
        if axes.lines:
            axes.legend(fontsize="small")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
