"""What a command says: tables and progress on a terminal, plain lines elsewhere, JSON in a file."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rt3d_tvm.files.whole_file import whole_file

if TYPE_CHECKING:
    from rich.progress import Progress

# Characters that a column of text keeps where a terminal is narrow; what is longer is folded.
_LEAST_TEXT = 12
# Columns of the bar of a count. The time that is left goes by the last 1,000 steps, which may take
# minutes each.
_COUNT_BAR, _DAY_S = 10, 86_400.0


def print_table(
    rows: Sequence[Sequence[object]],
    *,
    columns: Sequence[str],
    title: str = "",
    file: TextIO | None = None,
) -> None:
    """Print rows under their column names; numbers to the right, everything else to the left.

    On a terminal that is a rich table, elsewhere aligned lines with two spaces between columns.
    Where a terminal is too narrow text is folded, never cut; where that would leave next to nothing
    of a column, each row is a block with one line per column.
    A row whose length is not that of ``columns`` raises ValueError.
    """
    file = file or sys.stdout
    cells = [[printable(_cell(value)) for value in row] for row in rows]
    right = [
        bool(rows) and all(isinstance(row[i], (int, float, type(None))) for row in rows)
        for i in range(len(columns))
    ]
    if any(len(row) != len(columns) for row in cells):
        raise ValueError(f"every row of the table needs {len(columns)} cells")
    if file.isatty():
        _print_on_terminal(cells, columns, right, printable(title), file)
    else:
        _print_plain(cells, columns, right, printable(title), file)


def printable(text: str) -> str:
    """Text from elsewhere for a terminal: what is no character to see is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shell_words(*words: object) -> str:
    """A command to copy: each word quoted as a shell reads it, a path never taken for an option."""
    return " ".join(_shell_word(word) for word in words)


def _shell_word(word: object) -> str:
    text = str(word)
    if isinstance(word, Path) and text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    # What cannot be printed as it is, as bash, zsh and ksh write it.
    data = os.fsencode(text)
    plain = {*range(0x20, 0x7F)} - {*b"'\\"}
    return "$'" + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in data) + "'"


def _print_on_terminal(
    cells: list[list[str]],
    columns: Sequence[str],
    right: Sequence[bool],
    title: str,
    file: TextIO,
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Names such as [1, 3, 16, 112, 112] are no markup.
    console = Console(file=file, markup=False, highlight=False)
    borders = 3 * len(columns) + 1
    widths = _widths(cells, columns, right, console.width - borders)
    if widths is not None:
        table = Table(title=title or None, title_justify="left")
        for name, to_the_right, width in zip(columns, right, widths, strict=True):
            side = "right" if to_the_right else "left"
            table.add_column(name, justify=side, width=width, overflow="fold")
        for row in cells:
            table.add_row(*row)
        console.print(table)
        return
    if title:
        console.print(title)
    for row in cells:
        block = Table.grid(padding=(0, 2, 0, 0))
        block.add_column(overflow="fold")
        block.add_column(overflow="fold")
        for name, cell in zip(columns, row, strict=True):
            block.add_row(Text(name), Text(cell))
        console.print(block, end="\n")
        console.print()


def _widths(
    cells: list[list[str]], columns: Sequence[str], right: Sequence[bool], room: int
) -> list[int] | None:
    """The widths of the columns, which may be ``room`` together; None where that is too little."""
    from rich.cells import cell_len

    longest = [max(map(cell_len, column), default=0) for column in zip(*cells, strict=True)]
    longest = longest or [0] * len(columns)
    words = [max(map(cell_len, name.split()), default=1) for name in columns]
    wanted = [
        max(cell_len(name), of_cells, 1) for name, of_cells in zip(columns, longest, strict=True)
    ]
    # Numbers stay whole, names of columns are folded between words.
    least = [
        max(word, of_cells if to_the_right else min(of_cells, _LEAST_TEXT), 1)
        for word, of_cells, to_the_right in zip(words, longest, right, strict=True)
    ]
    if sum(least) > room:
        return None
    widths = list(least)
    # What is left goes to the columns that miss most, one character at a time.
    for _ in range(room - sum(least)):
        missing = [most - width for most, width in zip(wanted, widths, strict=True)]
        if max(missing) <= 0:
            break
        widths[missing.index(max(missing))] += 1
    return widths


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
        yield lambda stage: print(printable(f"{what}: {stage}"), flush=True)
        return
    from rich.console import Console

    with Console(file=sys.stderr, markup=False, highlight=False).status(what) as status:
        yield lambda stage: status.update(printable(f"{what}: {stage}"))


class Count:
    """How far something is that is counted, and lines that are said on the way.

    ``what`` begins each line.
    """

    def __init__(self, what: str, shown: Progress) -> None:
        self._what, self._shown = what, shown
        self._task = shown.add_task(what, total=None)

    def say(self, line: str) -> None:
        """A line that stays: above the one that moves, or on stdout where there is none."""
        text = printable(f"{self._what}: {line}")
        if self._shown.disable:
            print(text, flush=True)
        else:
            self._shown.console.print(text)

    def at(self, done: int, total: int, text: str) -> None:
        """So many of all are done; ``text`` is what is going on."""
        description = printable(f"{self._what}: {text}")
        self._shown.update(self._task, completed=done, total=total, description=description)

    @property
    def left(self) -> str:
        """The time that the rest will take, by what was done so far."""
        from rich.progress import TimeRemainingColumn

        (task,) = self._shown.tasks
        return TimeRemainingColumn().render(task).plain

    @property
    def moves(self) -> bool:
        """Whether there is a terminal with a line that moves."""
        return not self._shown.disable


@contextlib.contextmanager
def counted(what: str) -> Iterator[Count]:
    """Yield a count. On a terminal one line on stderr shows it, with a bar and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    columns = (
        SpinnerColumn(),
        # What is too long goes on below.
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1)),
        BarColumn(bar_width=_COUNT_BAR),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=Console(file=sys.stderr, markup=False, highlight=False),
        disable=not sys.stderr.isatty(),
        expand=True,
        transient=True,
        speed_estimate_period=_DAY_S,
    ) as shown:
        yield Count(what, shown)


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON; dataclasses and mappings as objects, paths as text.

    The file appears whole or not at all. InputError if its folder cannot be written to.
    """
    text = to_json(value)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: object) -> str:
    """What `write_json` writes, with a line's end."""
    return json.dumps(_plain(value), indent=1, allow_nan=False) + "\n"


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
