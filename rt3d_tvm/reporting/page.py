"""A report as one HTML page that needs no network: templates/report.html, filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

_TEMPLATES = Path(__file__).parent / "templates"
_UNKNOWN = "–"
# A factor that two digits do not tell from 1.
_ALIKE = 1.05


def as_page(report: Mapping) -> str:
    """The page; everything that comes from a file or a name is escaped."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, percent=percent, size=size, megabytes=megabytes, times=times, error=error
    )
    environment.filters.update(factor=factor, kernels=kernels, points=points, share=share)
    page = environment.get_template("report.html")
    batches = {batch["batch"] for model in report["models"] for batch in model["batches"]}
    # Where all is one clip at a time, a column for that would say nothing.
    return page.render(
        report=report, rows=_rows(report), cards=_cards(report), in_batches=batches != {1}
    )


def _cards(report: Mapping) -> list[dict]:
    """What each model gained over each other one: one card, of its first batch and the others."""
    cards: dict[tuple[str, str], list[dict]] = {}
    for gain in report["gains"]:
        cards.setdefault((gain["model"], gain["against"]), []).append(gain)
    return [{**first, "others": others} for first, *others in cards.values()]


def _rows(report: Mapping) -> list[dict]:
    """The lines of the first table: each model and each engine of the file, in every batch.

    What does not depend on the batch stands in the first line of each.
    """
    rows: list[dict] = []
    for model in report["models"]:
        about = {key: model[key] for key in ("bytes", "memory_mb", "accuracy", "verification")}
        about |= {"rate": model["pruning_rate"], "pruning_accuracy": model["pruning_accuracy"]}
        rows += _in_batches(
            [(batch["batch"], batch["timing"]) for batch in model["batches"]], about
        )
    file = report["file"] or {"batches": []}
    by_engine: dict[str, list[tuple[int, dict]]] = {}
    for batch in file["batches"]:
        for timing in batch["timings"]:
            by_engine.setdefault(timing["engine"], []).append((batch["batch"], timing))
    for engine, timings in by_engine.items():
        own = engine == "ONNX Runtime"
        about = {"bytes": file["bytes"], "memory_mb": file["memory_mb"] if own else None}
        rows += _in_batches(timings, {**about, "accuracy": file["accuracy"] if own else None})
    longest = max(row["ms_per_clip"] for row in rows)
    return [{**row, "length": row["ms_per_clip"] / longest} for row in rows]


_UNSAID = ("bytes", "memory_mb", "accuracy", "verification", "rate", "pruning_accuracy")


def _in_batches(timings: Sequence[tuple[int, dict]], about: Mapping) -> list[dict]:
    return [
        {
            **dict.fromkeys(_UNSAID),
            **timing,
            **(about if place == 0 else {}),
            "batch": batch,
            "ms_per_clip": timing["p50_ms"] / batch,
        }
        for place, (batch, timing) in enumerate(timings)
    ]


def number(value: float | None) -> str:
    """Three digits, or a dash for what is not known."""
    if value is None:
        return _UNKNOWN
    if value == 0 or 1e-2 <= abs(value) < 1e6:
        return f"{value:.3g}" if abs(value) < 1e3 else f"{value:.0f}"
    return f"{value:.2e}"


def percent(value: float | None) -> str:
    """A part as per cent."""
    return _UNKNOWN if value is None else f"{value:.0%}" if value >= 0.1 else f"{value:.1%}"


def share(value: float | None) -> str:
    """An accuracy as per cent, with a digit more than of other parts."""
    return _UNKNOWN if value is None else f"{value:.1%}"


def size(value: list[int] | None) -> str:
    """A shape."""
    return _UNKNOWN if value is None else " × ".join(map(str, value))


def megabytes(value: float | None) -> str:
    """Bytes in MB."""
    return _UNKNOWN if value is None else f"{value / 1e6:.3g} MB"


def times(value: float | None) -> str:
    """A factor, such as 2.3 ×."""
    return _UNKNOWN if value is None else f"{value:.2g} ×" if value < 10 else f"{value:.0f} ×"


def kernels(call: Mapping) -> list[str]:
    """What computes a call's layers, in which group and type; or the reason why no kernel does."""
    lines: list[str] = []
    for layer in call["layers"]:
        if layer["kernel"] is None:
            lines.append(layer["reason"])
            continue
        lines.append(" ".join(filter(None, (layer["kernel"], layer["group"], layer["dtype"]))))
        lines += [layer["float32_reason"]] if layer["float32_reason"] else []
    return list(dict.fromkeys(lines))


def factor(value: float, better: str, worse: str) -> str:
    """A factor in words: how many times better, or worse where it is below 1."""
    if 1 / _ALIKE < value < _ALIKE:
        return "the same"
    return f"{times(value)} {better}" if value >= 1 else f"{times(1 / value)} {worse}"


def points(value: Mapping) -> str:
    """What a pruning cost, in words."""
    lost = 100 * (value["before"] - value["after"])
    if abs(lost) < 0.05:
        return "the same accuracy"
    return f"{abs(lost):.1f} points {'lost' if lost > 0 else 'gained'}"


def error(value: float | None) -> str:
    """A relative error."""
    return _UNKNOWN if value is None else f"{value:.1e}"
