"""A report as one HTML page that needs no network: templates/report.html, filled in."""

from __future__ import annotations

from collections.abc import Mapping
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
    environment.filters.update(factor=factor, kernels=kernels)
    page = environment.get_template("report.html")
    return page.render(report=report, rows=_rows(report))


def _rows(report: Mapping) -> list[dict]:
    """The lines of the first table: each model, and each engine of the file."""
    rows = [
        {**model["timing"], **{k: model[k] for k in ("bytes", "memory_mb", "accuracy")}}
        | {"verification": model["verification"], "rate": model["pruning_rate"]}
        for model in report["models"]
    ]
    for timing in (report["file"] or {"timings": []})["timings"]:
        own = timing["engine"] == "ONNX Runtime"
        memory = report["file"]["memory_mb"] if own else None
        right = report["file"]["accuracy"] if own else None
        about = {"bytes": report["file"]["bytes"], "memory_mb": memory, "accuracy": right}
        rows.append({**timing, **about, "verification": None, "rate": None})
    longest = max(row["p50_ms"] for row in rows)
    return [{**row, "length": row["p50_ms"] / longest} for row in rows]


def number(value: float | None) -> str:
    """Three digits, or a dash for what is not known."""
    if value is None:
        return _UNKNOWN
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1e3 else f"{value:.0f}"
    return f"{value:.2e}"


def percent(value: float | None) -> str:
    """A part as per cent."""
    return _UNKNOWN if value is None else f"{value:.0%}" if value >= 0.1 else f"{value:.1%}"


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


def error(value: float | None) -> str:
    """A relative error."""
    return _UNKNOWN if value is None else f"{value:.1e}"
