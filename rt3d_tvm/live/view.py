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
_BAR, _NUMBER = 16, 7


class View:
    """Shows the state of what is watched: on a terminal in place, elsewhere a line per window.

    As a context manager it leaves the last picture on the terminal.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stdout
        self._live: Live | None = None
        self._shown = 0.0

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_error: object) -> None:
        self.rest()

    def rest(self) -> None:
        """Leave the picture as it is: what is printed next stands below it."""
        if self._live is not None:
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
    from rich.cells import set_cell_size
    from rich.console import Group
    from rich.text import Text

    width = min(WIDTH, console.width)
    rates, last = watched.rates, watched.last
    fps = "-" if rates.fps is None else f"{rates.fps:.1f}"
    # Of what is live it is mostly waiting.
    first = "next frame" if watched.drops else "decode"
    lines = [
        _cut(watched.source.name, width, keep_end=True),
        _cut(f"{fps} frames/s  {rates.frames} seen  {watched.dropped} dropped", width),
        _cut(
            f"{first} {_mean(rates.decode_ms)}  preprocess {_mean(rates.preprocess_ms)}  "
            f"model {_mean(rates.inference_ms[-5:])} ms",
            width,
        ),
    ]
    if last is None:
        lines.append(_cut(f"waiting for the first {watched.model.span} frames", width))
    else:
        room = max(width - _BAR - _NUMBER - 1, 8)
        for guess in last.top:
            name = set_cell_size(_cut(guess.label or f"class {guess.index}", room), room)
            bar = "█" * round(_BAR * guess.probability)
            lines.append(f"{name} {bar:<{_BAR}}{guess.probability:>{_NUMBER}.0%}")
    return Group(*(Text(printable(line), no_wrap=True, overflow="ellipsis") for line in lines))


def _mean(values) -> str:
    taken = list(values)
    return f"{sum(taken) / len(taken):.1f}" if taken else "-"


def _cut(text: str, width: int, *, keep_end: bool = False) -> str:
    """At most so many columns; what is longer loses its end, or its beginning."""
    from rich.cells import cell_len, set_cell_size

    text = printable(text)
    if cell_len(text) <= width:
        return text
    if keep_end:
        while cell_len(text) > width - 1:
            text = text[1:]
        return f"…{text}"
    return set_cell_size(text, width - 1).rstrip() + "…"
