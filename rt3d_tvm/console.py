"""What a command says: tables and progress on a terminal, plain lines elsewhere, JSON in a file."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TextIO

from rt3d_tvm.whole_file import whole_file


def print_table(
    rows: Sequence[Sequence[object]],
    *,
    columns: Sequence[str],
    title: str = "",
    file: TextIO | None = None,
) -> None:
    """Print rows under their column names; numbers to the right, everything else to the left.

    On a terminal that is a rich table, elsewhere aligned lines with two spaces between columns.
    A row whose length is not that of ``columns`` raises ValueError.
    """
    file = file or sys.stdout
    cells = [[_cell(value) for value in row] for row in rows]
    right = [
        bool(rows) and all(isinstance(row[i], (int, float, type(None))) for row in rows)
        for i in range(len(columns))
    ]
    if any(len(row) != len(columns) for row in cells):
        raise ValueError(f"every row of the table needs {len(columns)} cells")
    if not file.isatty():
        _print_plain(cells, columns, right, title, file)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for name, to_the_right in zip(columns, right, strict=True):
        table.add_column(name, justify="right" if to_the_right else "left")
    for row in cells:
        table.add_row(*row)
    # Names such as [1, 3, 16, 112, 112] are no markup.
    Console(file=file, markup=False, highlight=False).print(table)


def _print_plain(
    cells: list[list[str]],
    columns: Sequence[str],
    right: Sequence[bool],
    title: str,
    file: TextIO,
) -> None:
    if title:
        print(title, file=file)
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in (columns, *cells):
        padded = [
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for cell, width, to_the_right in zip(row, widths, right, strict=True)
        ]
        print("  ".join(padded).rstrip(), file=file)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (tuple, list)):
        return "x".join(map(str, value))
    return str(value)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Yield a function to call with the name of each stage.

    On a terminal one spinning line shows the current stage, on stderr; elsewhere each is a line on
    stdout, so that stderr holds errors and nothing else.
    """
    if not sys.stderr.isatty():
        yield lambda stage: print(f"{what}: {stage}", flush=True)
        return
    from rich.console import Console

    with Console(file=sys.stderr, markup=False, highlight=False).status(what) as status:
        yield lambda stage: status.update(f"{what}: {stage}")


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON; dataclasses and mappings as objects, paths as text.

    The file appears whole or not at all. InputError if its folder cannot be written to.
    """
    text = json.dumps(_plain(value), indent=1, allow_nan=False)
    with whole_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
