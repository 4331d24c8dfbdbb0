"""A report in the files that are asked for: all are made before the first is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import check_writable, whole_file
from rt3d_tvm.reporting.artifacts import Settings
from rt3d_tvm.reporting.collect import collect
from rt3d_tvm.reporting.node_data import VALUES, as_node_data
from rt3d_tvm.reporting.page import as_page
from rt3d_tvm.reporting.tables import as_csv, as_trace


def make_report(
    settings: Settings,
    *,
    command: Sequence[str],
    progress: Callable[[str], None],
    page: Path | None = None,
    table: Path | None = None,
    trace: Path | None = None,
    node_data: Path | None = None,
    node_value: str = "ms",
) -> dict:
    """Collect a report, write the ``page``, the ``table`` and the ``trace``, and return it.

    ``node_data`` is a file for Model Explorer, with ``node_value`` at each layer: ms, gflops,
    density or error. InputError for a file that cannot be written to, before anything is measured,
    and for node data of a file that has not the model's layers.
    """
    writers: list[tuple[Path | None, Callable[[dict], str]]] = [
        (page, as_page),
        (table, as_csv),
        (trace, as_trace),
        (node_data, partial(as_node_data, value=node_value)),
    ]
    if node_data is not None:
        _check_node_data(settings, node_value)
    wanted = [(path, text) for path, text in writers if path is not None]
    for path, _ in wanted:
        check_writable(path)
    if page is not None:
        import jinja2  # noqa: F401  # its absence is told before anything is measured
    found = collect(settings, command=command, progress=progress)
    why = found["models"][0]["why_no_errors"]
    if node_data is not None and not any(
        layer["node"]
        for call in found["models"][0]["batches"][0]["calls"]
        for layer in call["layers"]
    ):
        raise InputError(f"node data: {settings.onnx} is not of {settings.folders[0]}: {why}")
    for path, content in [(path, text(found)) for path, text in wanted]:
        with whole_file(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return found


def _check_node_data(settings: Settings, value: str) -> None:
    """InputError where there is no graph, or more than one model, to lay numbers over."""
    if value not in VALUES:
        raise InputError(f"node value {value!r}: {', '.join(VALUES)} are accepted")
    if settings.onnx is None:
        raise InputError("node data are laid over the graph of an ONNX file: give --onnx")
    if len(settings.folders) > 1:
        raise InputError(f"node data are of one model; {len(settings.folders)} are given")
