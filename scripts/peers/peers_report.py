"""What compare_peers.py measured, as tables and a chart.

    python scripts/peers/peers_report.py PEERS.json

Draws PEERS.png beside the file; nothing is measured, so both can be had again at any time.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from rt3d_tvm.console import print_table
from rt3d_tvm.files.whole_file import whole_file

# The paper's kernel group, and what eta compares with: dense layers by the kernels of sparse ones.
PAPER_KIND, DIRECT = "kgs 8x4", "dense direct"
# How fast a pruned model has to be, as a multiple of OpenVINO's dense run: at the kernel group that
# the machine prefers (must, aim), and at the paper's 8x4 where it prefers another.
SPARSE = {"c3d": (2.6, 3.1, 2.2), "r2plus1d": (2.4, 3.2, 2.0), "s3d": (1.6, 2.1, 1.4)}
DENSE, ETA = (0.85, 1.0), (0.85, 1.0)
OWN, OTHER = "#c2410c", "#94a3b8"


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A figure with the least it must be and what is aimed at; larger is better."""

    model: str
    what: str
    measured: float | None
    must: float
    aim: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the must is held."""
        if self.measured is None:
            return "not measured"
        return "held" if self.measured >= self.must else "missed"


def report(path: Path) -> None:
    """Print every table of a peers.json and draw its chart."""
    document = json.loads(path.read_text(encoding="utf-8"))
    for model in document["models"].values():
        print_engines(model, document["threads"])
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


def median(model: dict, engine: str, kind: str = "dense") -> float | None:
    """Median milliseconds of the row of an engine, None where there is no such figure."""
    for row in model["engines"]:
        if (row["engine"], row["kind"]) == (engine, kind) and row["samples_ms"]:
            return statistics.median(row["samples_ms"])
    return None


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Their quotient, None where either was not measured."""
    return numerator / denominator if numerator and denominator else None


def kept_macs(model: dict, kind: str, names: set[str] | None = None) -> int:
    """Multiply-adds of the kept weights of every layer, or of those of some names."""
    layers = model["layers"][kind]
    return sum(layer["kept_macs"] for layer in layers if names is None or layer["name"] in names)


def convolutions(model: dict) -> set[str]:
    """The convolutions with a kernel of this project; one output position is a classifier's."""
    layers = model["layers"][DIRECT]
    return {layer["name"] for layer in layers if layer["kernel"] and max(layer["out"][-2:]) > 1}


def convolution_ms(model: dict, kind: str) -> float | None:
    """Summed median milliseconds of the convolutions."""
    names = convolutions(model)
    for entry in model["calls"]:
        if entry["kind"] == kind and entry["samples_ms"]:
            medians = map(statistics.median, zip(*entry["samples_ms"], strict=True))
            calls = zip(entry["calls"], medians, strict=True)
            return sum(ms for call, ms in calls if names.intersection(call["layers"]))
    return None


def sparse_kinds(model: dict) -> list[str]:
    """The prunings that were measured; first KGS at the group that the machine prefers."""
    return [kind for kind in model["layers"] if not kind.startswith("dense")]


def eta(model: dict, kind: str) -> tuple[float | None, float | None, float]:
    """Speed-up over the own direct dense run over the pruning rate; that rate.

    Of the whole model, and over its convolutions, whose rate is then their own.
    """
    rate = kept_macs(model, DIRECT) / kept_macs(model, kind)
    whole = ratio(median(model, "rt3d", DIRECT), median(model, "rt3d", kind))
    names = convolutions(model)
    of_convolutions = kept_macs(model, DIRECT, names) / kept_macs(model, kind, names)
    faster = ratio(convolution_ms(model, DIRECT), convolution_ms(model, kind))
    return ratio(whole, rate), ratio(faster, of_convolutions), rate


def requirements(name: str, model: dict) -> list[Requirement]:
    """What is required of a model and what was measured."""
    title, openvino, dense = model["title"], median(model, "openvino"), median(model, "rt3d")
    found = [
        Requirement(
            model=title,
            what="dense / OpenVINO",
            measured=ratio(openvino, dense),
            must=DENSE[0],
            aim=DENSE[1],
        )
    ]
    torch = [
        ms
        for engine in ("pytorch", "pytorch_without_onednn", "pytorch_compiled")
        if (ms := median(model, engine))
    ]
    others = (
        ("PyTorch, its fastest way", min(torch, default=None)),
        ("ONNX Runtime", median(model, "onnxruntime")),
        ("MNN", median(model, "mnn")),
    )
    found += [
        Requirement(model=title, what=f"dense / {peer}", measured=ratio(ms, dense), must=1.0)
        for peer, ms in others
    ]
    for preferred in sparse_kinds(model)[:1]:
        found += _sparse_requirements(name, model, preferred)
    peaks = {
        entry["kind"] if entry["engine"] == "rt3d" else entry["engine"]: entry["peak_mb"]
        for entry in model["memory"]
        if not entry["failed"]
    }
    found += [
        Requirement(
            model=title,
            what=f"peak memory, {kind}: ONNX Runtime / ours",
            measured=ratio(peaks.get("onnxruntime"), peaks.get(kind)),
            must=1.0,
        )
        for kind in ("dense", DIRECT, *sparse_kinds(model)[:1])
    ]
    return found


def _sparse_requirements(name: str, model: dict, preferred: str) -> list[Requirement]:
    title, openvino = model["title"], median(model, "openvino")
    found = []
    if name in SPARSE:
        must, aim, paper = SPARSE[name]
        kinds = [(preferred, must, aim)]
        if preferred != PAPER_KIND:
            kinds.append((PAPER_KIND, paper, None))
        found += [
            Requirement(
                model=title,
                what=f"{kind} / OpenVINO dense",
                measured=ratio(openvino, median(model, "rt3d", kind)),
                must=least,
                aim=wanted,
            )
            for kind, least, wanted in kinds
        ]
    found.append(
        Requirement(
            model=title,
            what=f"eta of {preferred}, convolutions",
            measured=eta(model, preferred)[1],
            must=ETA[0],
            aim=ETA[1],
        )
    )
    return found


def print_engines(model: dict, threads: int) -> None:
    """Every row: its time, beside the fastest of the others and the multiply-add peak."""
    medians = {
        id(row): statistics.median(row["samples_ms"])
        for row in model["engines"]
        if row["samples_ms"]
    }
    others = [
        medians[id(row)]
        for row in model["engines"]
        if row["engine"] != "rt3d" and id(row) in medians
    ]
    best, peak = min(others, default=None), statistics.median(model["fma_peak_gflops"])
    rows, notes = [], []
    for row in model["engines"]:
        ms = medians.get(id(row))
        macs = kept_macs(model, row["kind"]) if row["kind"] in model["layers"] else None
        share = ratio(macs and 2 * macs / 1e6, ms and ms * peak)
        error = row["rel_error"]
        rows.append(
            (
                row["title"],
                row["version"] or "-",
                ms,
                len(row["samples_ms"]),
                ratio(best, ms),
                "-" if share is None else f"{share:.0%}",
                "-" if error is None else f"{error:.0e}",
            )
        )
        if row["failed"]:
            notes.append(f"{row['title']}: {row['failed']}")
        elif row["slow"]:
            notes.append(f"{row['title']}: slow, so only {len(row['samples_ms'])} runs")
    print_table(
        rows,
        columns=("engine", "version", "median ms", "runs", "x best peer", "of FMA peak", "error"),
        title=f"{model['title']}: {threads} threads, runs in turns; {peak:.0f} GFLOP/s FMA peak; "
        f"pruned to {model['rate']:g}x",
    )
    for note in notes:
        print(f"  {note}")


def print_eta(model: dict) -> None:
    """Speed-up over dense and eta of each pruning, over the whole model and its convolutions."""
    rows = []
    for kind in sparse_kinds(model):
        whole, over_convolutions, rate = eta(model, kind)
        rows.append((kind, rate, whole and whole * rate, whole, over_convolutions))
    print_table(
        rows,
        columns=("pruning", "rate", "x direct dense", "eta, whole model", "eta, convolutions"),
        title=f"{model['title']}: eta = speed-up over the own direct dense run / rate",
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


def draw(document: dict, path: Path) -> None:
    """One panel of horizontal bars a model, fastest on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = []
    for model in document["models"].values():
        bars = [
            (statistics.median(row["samples_ms"]), row["title"], row["engine"] == "rt3d")
            for row in model["engines"]
            if row["samples_ms"]
        ]
        panels.append((f"{model['title']}, pruned to {model['rate']:g}×", sorted(bars)))
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
        f"milliseconds for one input, float32, {document['threads']} threads of {machine['cpu']}; "
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


if __name__ == "__main__":
    report(Path(sys.argv[1]))
