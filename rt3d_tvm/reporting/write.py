"""A report in the files that are asked for: all are made before the first is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rt3d_tvm.files.whole_file import check_writable, whole_file
from rt3d_tvm.reporting.collect import Settings, collect
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
) -> dict:
    """Collect a report, write the ``page``, the ``table`` and the ``trace``, and return it.

    InputError for a file that cannot be written to, before anything is measured.
    """
    writers = [(page, as_page), (table, as_csv), (trace, as_trace)]
    wanted = [(path, text) for path, text in writers if path is not None]
    for path, _ in wanted:
        check_writable(path)
    if page is not None:
        import jinja2  # noqa: F401  # its absence is told before anything is measured
    found = collect(settings, command=command, progress=progress)
    for path, content in [(path, text(found)) for path, text in wanted]:
        with whole_file(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return found
