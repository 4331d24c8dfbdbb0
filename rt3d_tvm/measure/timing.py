"""Milliseconds of one engine, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A median of normal samples varies by 1.25 times what their mean does; MAD to standard deviation.
_MEDIAN, _SIGMA = 1.2533, 1.4826


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds of one engine: every run, and what so many per cent of them stay below.

    ``name`` is what it ran: an artifact's folder or a file. ``ratio`` is of the medians to the
    first engine's. ``clips_per_s`` counts all requests; ``rates`` are those of each turn where
    several ran at once.
    """

    engine: str
    name: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    ratio: float
    clips_per_s: float
    samples_ms: tuple[float, ...]
    rates: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        engine: str,
        samples_ms: Sequence[float],
        *,
        first_ms: float | None,
        name: str = "",
        clips: int = 1,
        rates: Sequence[float] = (),
    ) -> Timing:
        """The timing of those runs of so many clips each.

        ``first_ms``: the first engine's median, None where it is that. ``rates``: clips per second
        in each turn, where several runs overlap.
        """
        median, p90, p99 = (float(ms) for ms in np.percentile(samples_ms, (50, 90, 99)))
        return cls(
            engine=engine,
            name=name,
            p50_ms=median,
            p90_ms=p90,
            p99_ms=p99,
            ratio=median / (first_ms or median),
            clips_per_s=float(np.median(rates)) if rates else 1e3 * clips / median,
            samples_ms=tuple(samples_ms),
            rates=tuple(rates),
        )

    @property
    def label(self) -> str:
        """Engine and name, as a table shows them."""
        return f"{self.engine}: {self.name}" if self.name else self.engine

    @property
    def spread(self) -> float:
        """How much longer than the median a run in ten takes."""
        return self.p90_ms / self.p50_ms - 1


def noise_of_median(samples: Sequence[float]) -> float:
    """The standard error of the samples' median, as a part of it."""
    median = float(np.median(samples))
    deviation = _SIGMA * float(np.median(np.abs(np.asarray(samples) - median)))
    return _MEDIAN * deviation / np.sqrt(len(samples)) / median
