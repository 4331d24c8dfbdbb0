"""Was the machine left alone while something was timed? What else ran, and what the clock did."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import psutil

from rt3d_tvm.artifact.load import available_cores
from rt3d_tvm.measure.cpu_peak import MultiplyAdds
from rt3d_tvm.measure.timing import Timing

# Beyond these something is said: others' share of the cores, how far the peak moves, how much
# longer than the median a run in ten takes, and how much more than the peak kernels may issue.
OTHERS_SHARE, PEAK_MOVES, SPREAD, MOST_ISSUED = 0.1, 0.1, 0.25, 1.1
_LOOKS = 3


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """What was seen around a measurement; ``notes`` says what makes it doubtful.

    others_share: of the cores' time, what other processes and machines took. peak_gflops: of
    multiply-adds on the measurement's threads, before and after it; empty where nothing ran on
    cores.
    """

    others_share: float
    peak_gflops: tuple[float, ...]
    notes: tuple[str, ...]


@dataclass
class Watch:
    """Looks at this machine before and after what is timed inside it.

    threads: those that are measured; None where nothing runs on cores.
    """

    threads: int | None
    others_share: float = 0.0
    peaks: list[float] = field(default_factory=list)

    def __enter__(self) -> Watch:
        self._look = None if self.threads is None else MultiplyAdds(self.threads)
        self._peak()
        self._started, self._busy, self._own = time.perf_counter(), _busy_s(), _own_s()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        elapsed = time.perf_counter() - self._started
        others = _busy_s() - self._busy - (_own_s() - self._own)
        # The system counts in steps of 10 ms, which may be more than there was.
        self.others_share = min(max(others / elapsed / available_cores(), 0.0), 1.0)
        if error is None:
            self._peak()

    def _peak(self) -> None:
        if self._look is not None:
            self.peaks.append(max(self._look.gflops() for _ in range(_LOOKS)))

    def found(self, timings: Sequence[Timing], issued: Sequence[float] = ()) -> Disturbance:
        """What there is to say of these timings.

        issued: GFLOP/s in float32 that this project's kernels issue, to be compared with the peak.
        """
        return Disturbance(
            others_share=self.others_share,
            peak_gflops=tuple(self.peaks),
            notes=tuple(_notes(self, timings, issued)),
        )


def _notes(watch: Watch, timings: Sequence[Timing], issued: Sequence[float]) -> Iterator[str]:
    if watch.others_share > OTHERS_SHARE:
        yield (
            f"others took {watch.others_share:.0%} of the {available_cores()} cores: the times are "
            "those of a machine that is shared"
        )
    if watch.peaks:
        before, after = watch.peaks[0], watch.peaks[-1]
        if abs(after / before - 1) > PEAK_MOVES:
            yield (
                f"the cores' clock moved: {before:.0f} GFLOP/s of multiply-adds before, "
                f"{after:.0f} after"
            )
        most = max(issued, default=0.0)
        if most > MOST_ISSUED * max(watch.peaks):
            yield (
                f"the kernels seem to issue {most:.0f} GFLOP/s, more than the measured peak of "
                f"{max(watch.peaks):.0f}: something else slowed the peak down"
            )
    for timing in timings:
        if timing.spread > SPREAD:
            yield (
                f"{timing.label}: a run in ten takes {1 + timing.spread:.1f} times the median or "
                "longer"
            )


def _busy_s() -> float:
    """Seconds that this process's cores were busy since the machine started, stolen ones too."""
    # Guests' time is counted in user's already.
    idle = ("idle", "iowait", "guest", "guest_nice")
    per_core = psutil.cpu_times(percpu=True)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(per_core))
    return sum(
        sum(value for name, value in per_core[core]._asdict().items() if name not in idle)
        for core in cores
        if core < len(per_core)
    )


def _own_s() -> float:
    taken = psutil.Process().cpu_times()
    return taken.user + taken.system + taken.children_user + taken.children_system
