"""Who looks on while a model trains: a line that moves on a terminal, one per epoch elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rt3d_tvm.console import Count, counted


class TrainingWatch:
    """Tell of each epoch how it went and when the last one will have ended."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._done = self._total = 0
        self._title = ""

    def begin(self, *, epoch: int, epochs: int, phase: str, steps: int) -> None:
        self._title = f"epoch {epoch + 1}/{epochs} {phase}"
        self._total = self._done + (epochs - epoch) * steps
        self._count.at(self._done, self._total, self._title)

    def step(self, loss: float) -> None:
        self._done += 1
        self._count.at(self._done, self._total, f"{self._title}  loss {loss:.3f}")

    def end(self, row: dict) -> None:
        parts = [f"loss {row['loss']:.3f}", f"train {row['train_accuracy']:.1%}"]
        parts.append(f"test {row['test_accuracy']:.1%}")
        if row.get("density") is not None:
            # While it is regularized nothing is gone yet; what has become weak is what shows.
            share = row["density"] if row["phase"] == "retrain" else row["rms_density"]
            parts.append(f"density {share:.1%}")
        self._count.say(f"{self._title}  {'  '.join(parts)}  ETA {self._count.left}")


@contextlib.contextmanager
def watched(what: str) -> Iterator[TrainingWatch]:
    """A watch for a terminal or, where stderr is none, one that prints plain lines."""
    with counted(what) as count:
        yield TrainingWatch(count)
