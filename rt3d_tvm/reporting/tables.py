"""A report as rows for a spreadsheet, and as a trace for Chrome's and Perfetto's viewers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping

COLUMNS = (
    *("model", "batch", "model_ms", "model_ms_per_clip", "layer", "function", "weight", "output"),
    *("group", "type", "density", "kernel", "reason", "ms", "share", "useful_gflops"),
    *("peak_share", "max_rel_error"),
)
_MEASURED = ("ms", "share", "gflops", "peak_share", "max_rel_error")


def as_csv(report: Mapping) -> str:
    """One line per kernel call of each model in each of its batches, with the whole model's time.

    An empty cell is what is not known.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for model in report["models"]:
        for batch in model["batches"]:
            whole = [batch["batch"], batch["timing"]["p50_ms"], batch["ms_per_clip"]]
            for call in batch["calls"]:
                writer.writerow([model["name"], *whole, *_row(call)])
    return text.getvalue()


def _row(call: Mapping) -> list[object]:
    layers = call["layers"]
    of_layers = [
        " + ".join("" if layer[key] is None else _text(layer[key]) for layer in layers)
        for key in ("weight", "out", "group", "dtype")
    ]
    kernel = " + ".join(dict.fromkeys(layer["kernel"] or "" for layer in layers))
    reason = " + ".join(filter(None, (layer["reason"] for layer in layers)))
    density, *measured = (call[key] for key in ("density", *_MEASURED))
    name = " + ".join(layer["name"] for layer in layers)
    return [name, call["function"], *of_layers, density, kernel, reason, *measured]


def _text(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def as_trace(report: Mapping) -> str:
    """One run of each model in the Trace Event Format, a process per model and batch; in µs."""
    return json.dumps({"traceEvents": list(_events(report)), "displayTimeUnit": "ms"}) + "\n"


def _events(report: Mapping) -> Iterator[dict]:
    runs = [(model, batch) for model in report["models"] for batch in model["batches"]]
    for number, (model, batch) in enumerate(runs, 1):
        about = {"pid": number, "tid": 1}
        of_batch = f", batch {batch['batch']}" if len(model["batches"]) > 1 else ""
        named = {"name": f"{model['name']}{of_batch}"}
        yield {"ph": "M", "name": "process_name", "args": named, **about}
        yield {"ph": "M", "name": "thread_name", "args": {"name": "calls of one run"}, **about}
        for event, call in zip(batch["timeline"], batch["calls"], strict=True):
            names = [layer["name"] for layer in call["layers"]]
            yield {
                "ph": "X",
                "cat": "layer" if names else "between",
                "name": " + ".join(names) or call["function"],
                "ts": 1e3 * event["start_ms"],
                "dur": 1e3 * event["ms"],
                "args": {key: call[key] for key in ("function", "density", "gflops", "peak_share")},
                **about,
            }
