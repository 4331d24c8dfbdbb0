"""What a terminal of 60 columns shows while a source is watched; lines where there is none."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from rt3d_tvm.console import printable
from rt3d_tvm.live.windows import Watched, Window

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

# Columns that everything fits in, and seconds between two pictures.
WIDTH, _EVERY_S = 60, 0.1
_BAR, _NUMBER = 16, 4


class View:
    """Shows the state of what is watched: on a terminal in place, elsewhere a line per window.

    As a context manager it leaves the last picture on the terminal.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stdout
        self._live: Live | None = None
        self._watched: Watched | None = None
        self._shown = 0.0

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_error: object) -> None:
        self.rest()

    def rest(self) -> None:
        """Leave the picture of the last frame: what is printed next stands below it."""
        if self._live is not None and self._watched is not None:
            self._live.update(picture_of(self._watched, self._live.console), refresh=True)
            self._live.stop()
            self._live = None

    def show(self, watched: Watched, window: Window | None) -> None:
        """Show a frame's state, and the window that it completed."""
        if not self._file.isatty():
            if window is not None:
                print(line_of(watched, window), file=self._file, flush=True)
            return
        if self._live is None:
            self._live = self._started()
        self._watched = watched
        if window is not None or time.perf_counter() - self._shown > _EVERY_S:
            self._live.update(picture_of(watched, self._live.console), refresh=True)
            self._shown = time.perf_counter()

    def _started(self) -> Live:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._file, markup=False, highlight=False)
        live = Live(console=console, auto_refresh=False)
        live.start()
        return live


def line_of(watched: Watched, window: Window) -> str:
    """A window as one line."""
    best = window.top[0]
    name = best.label or f"class {best.index}"
    fps = watched.rates.fps
    return printable(
        f"{window.source}: frame {window.frame}, {window.time_s:.1f} s: {name} "
        f"{best.probability:.0%}, {window.inference_ms:.0f} ms, "
        f"{'-' if fps is None else f'{fps:.0f}'} frames/s, {window.dropped} dropped"
    )


def picture_of(watched: Watched, console: Console) -> RenderableType:
    """The state as a picture that is no wider than the terminal, nor than `WIDTH`."""
    from rich.console import Group
    from rich.text import Text

    width = min(WIDTH, console.width)
    rates, last = watched.rates, watched.last
    fps = "-" if rates.fps is None else f"{rates.fps:.1f}"
    about = [
        _end_of(watched.source.name, width),
        f"{fps} frames/s  {rates.frames} seen  {watched.dropped} dropped",
        _times(watched, width),
    ]
    if last is None:
        about.append(f"waiting for the first {watched.model.span} frames")
    styles = ("", "dim", "dim", "")
    lines = [
        Text(_within(line, width), style=style, no_wrap=True)
        for line, style in zip(about, styles, strict=False)
    ]
    return Group(*lines) if last is None else Group(*lines, _answers(last, width))


def _times(watched: Watched, width: int) -> str:
    """The mean of each stage; in whole milliseconds where there is no room for their tenths."""
    rates = watched.rates
    # Of what is live it is mostly waiting.
    stages = {
        "next frame" if watched.drops else "decode": rates.decode_ms,
        "preprocess": rates.preprocess_ms,
        "model": rates.inference_ms[-5:],
    }
    means = {name: sum(taken) / len(taken) for name, taken in stages.items() if taken}
    for digits in (1, 0):
        line = "ms: " + "  ".join(f"{name} {mean:.{digits}f}" for name, mean in means.items())
        if len(line) <= width:
            break
    return line


def _answers(window: Window, width: int) -> RenderableType:
    """Each class with a bar and its share, the likeliest in bold."""
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1, 0, 0), expand=True)
    table.width = width
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(width=_BAR)
    table.add_column(width=_NUMBER, justify="right")
    for rank, guess in enumerate(window.top):
        name = printable(guess.label or f"class {guess.index}")
        bar = Bar(size=1, begin=0, end=guess.probability, width=_BAR)
        style = "" if rank else "bold"
        table.add_row(Text(name), bar, Text(f"{guess.probability:.0%}"), style=style)
    return table


def _within(text: str, width: int) -> str:
    """At most so many columns; what is longer loses its end."""
    from rich.cells import cell_len, set_cell_size

    text = printable(text)
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _end_of(text: str, width: int) -> str:
    """At most so many columns; what is longer loses its beginning."""
    from rich.cells import cell_len

    text = printable(text)
    if cell_len(text) <= width:
        return text
    while cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}"
