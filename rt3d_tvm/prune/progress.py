"""Who looks on while a model trains: a line that moves on a terminal, one per epoch elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator


class TrainingWatch:
    """Tell of each epoch how it went and when the last one will have ended.

    ``say`` takes a line; ``show`` the state between two lines, if anyone is to see it.
    """

    def __init__(
        self, say: Callable[[str], None], show: Callable[[str], None] | None = None
    ) -> None:
        self._say, self._show = say, show
        self._started = time.monotonic()
        self._done = self._steps = self._step = 0
        self._left = 0
        self._title = ""

    def begin(self, *, epoch: int, epochs: int, phase: str, steps: int) -> None:
        self._title = f"epoch {epoch + 1}/{epochs} {phase}"
        self._left = epochs - epoch
        self._steps, self._step = steps, 0

    def step(self, loss: float) -> None:
        self._step += 1
        self._done += 1
        if self._show is not None:
            self._show(
                f"{self._title}  step {self._step}/{self._steps}  loss {loss:.3f}  "
                f"ETA {self._remaining()}"
            )

    def end(self, row: dict) -> None:
        parts = [f"loss {row['loss']:.3f}", f"train {row['train_accuracy']:.1%}"]
        parts.append(f"test {row['test_accuracy']:.1%}")
        if row.get("density") is not None:
            # While it is regularized nothing is gone yet; what has become weak is what shows.
            share = row["density"] if row["phase"] == "retrain" else row["rms_density"]
            parts.append(f"density {share:.1%}")
        self._say(f"{self._title}  {'  '.join(parts)}  ETA {self._remaining()}")

    def _remaining(self) -> str:
        steps = self._left * self._steps - self._step
        seconds = round((time.monotonic() - self._started) / max(self._done, 1) * steps)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


@contextlib.contextmanager
def watched(what: str) -> Iterator[TrainingWatch]:
    """A watch for a terminal or, where stderr is none, one that prints plain lines."""
    if not sys.stderr.isatty():
        yield TrainingWatch(lambda line: print(f"{what}: {line}", flush=True))
        return
    from rich.console import Console

    console = Console(file=sys.stderr, markup=False, highlight=False)
    with console.status(what) as status:
        yield TrainingWatch(
            lambda line: console.print(f"{what}: {line}"),
            lambda line: status.update(f"{what}: {line}"),
        )
