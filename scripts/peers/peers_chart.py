"""The chart of a peers.json: a panel per model and precision, a bar per engine."""

from __future__ import annotations

import statistics
from pathlib import Path

from figures import PRECISIONS, is_int8

from rt3d_tvm.files.whole_file import whole_file

OWN, OTHER = "#c2410c", "#94a3b8"


def draw(document: dict, path: Path) -> None:
    """One panel of horizontal bars per model and precision, fastest on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = []
    for model in document["models"].values():
        for precision in PRECISIONS:
            bars = [
                (statistics.median(row["samples_ms"]), row["title"], row["engine"] == "rt3d")
                for row in model["engines"]
                if row["samples_ms"] and is_int8(row["kind"]) == (precision == "int8")
            ]
            title = f"{model['title']}, {precision}, pruned to {model['rate']:g}×"
            if bars:
                panels.append((title, sorted(bars)))
    heights = [len(bars) + 1.5 for _, bars in panels]
    figure, axes = pyplot.subplots(
        len(panels),
        squeeze=False,
        figsize=(8, 0.3 * sum(heights)),
        height_ratios=heights,
        layout="constrained",
    )
    for axis, (title, bars) in zip(axes[:, 0], panels, strict=True):
        _draw_panel(axis, title, bars)
    machine = document["machine"]
    figure.supxlabel(
        f"milliseconds for one input, {document['threads']} threads of {machine['cpu']}; "
        f"medians, lower is better",
        fontsize=8,
    )
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
    pyplot.close(figure)


def _draw_panel(axis, title: str, bars: list[tuple[float, str, bool]]) -> None:
    times = [ms for ms, _, _ in bars]
    # An engine that is slower than the rest by far would flatten every other bar: its bar is cut.
    limit = 1.12 * max(ms for ms in times if ms <= 4 * statistics.median(times))
    for y, (ms, _, own) in enumerate(bars):
        cut = ms > limit
        axis.barh(y, min(ms, limit), color=OWN if own else OTHER, height=0.72)
        axis.annotate(
            f"{ms:,.0f}" + (" →" if cut else ""),
            (min(ms, limit), y),
            xytext=(-4, 0) if cut else (4, 0),
            textcoords="offset points",
            ha="right" if cut else "left",
            va="center",
            fontsize=8,
        )
    axis.set_yticks(range(len(bars)), [name for _, name, _ in bars], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, limit)
    axis.set_title(title, fontsize=10, loc="left", fontweight="bold")
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
