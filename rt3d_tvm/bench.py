"""Timing engines beside each other, in one process and in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# Worker threads of an engine spin for a while after a run, in the way of the next engine's.
PAUSE_S = 0.05
WARM_UP = 2


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of one engine: every run, and their median; ``ratio`` is to the first engine."""

    engine: str
    median_ms: float
    ratio: float
    samples_ms: tuple[float, ...]


def bench(
    engines: Mapping[str, Callable[[np.ndarray], object]], x: np.ndarray, *, runs: int = 20
) -> list[Timing]:
    """Time every engine on the input ``x``, ``runs`` times, in turns.

    In turns, because the clock of a machine drifts: ratios between medians then still hold.
    """
    for run in engines.values():
        for _ in range(WARM_UP):
            run(x)
    samples: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(runs):
        for name, run in engines.items():
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            run(x)
            samples[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in samples.items()}
    first = next(iter(medians.values()))
    return [
        Timing(
            engine=name,
            median_ms=medians[name],
            ratio=medians[name] / first,
            samples_ms=tuple(samples[name]),
        )
        for name in engines
    ]
