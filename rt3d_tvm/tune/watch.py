"""Who looks on while kernels are measured: a live line on a terminal, else one now and then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rt3d_tvm.console import counted

# Seconds between two lines where there is no terminal.
_EVERY_S = 30.0


@dataclass(frozen=True, kw_only=True)
class State:
    """What a search is doing now; times are of the task's best and default, where there are any."""

    task: str
    done: int
    planned: int
    best_ms: float | None
    default_ms: float | None
    failures: dict[str, int]
    devices: list[str]

    def __str__(self) -> str:
        times = "-"
        if self.best_ms is not None and self.default_ms is not None:
            times = f"{self.best_ms:.3g} of {self.default_ms:.3g} ms"
        failed = ", ".join(f"{count} {kind}" for kind, count in sorted(self.failures.items()))
        return (
            f"{self.done}/{self.planned} trials  {self.task}: {times}  failed: {failed or 'none'}  "
            f"{'; '.join(self.devices)}"
        )


@dataclass(frozen=True)
class Watch:
    """``say`` takes a line that matters, ``show`` the state after every trial."""

    say: Callable[[str], None] = lambda line: None
    show: Callable[[State], None] = lambda state: None


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """A watch for a terminal or, where stderr is none, one that prints plain lines on stdout."""
    last = 0.0
    with counted("tune") as count:

        def show(state: State) -> None:
            nonlocal last
            count.at(state.done, state.planned, str(state))
            is_due = time.monotonic() - last >= _EVERY_S or state.done == state.planned
            if is_due and not count.moves:
                last = time.monotonic()
                count.say(f"{state}  ETA {count.left}")

        yield Watch(say=count.say, show=show)
