"""Engines run in turns: one run after the other, or as many at once as they have runners."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rt3d_tvm.engines.engine import Engine, Runner
from rt3d_tvm.measure.timing import Timing

# Worker threads of an engine spin for a while after a run, in the way of the next engine's.
PAUSE_S = 0.05
WARM_UP = 2
# Turns that the seconds of a throughput measurement are parted into.
_TURNS = 5


def in_turns(
    engines: Sequence[Runner], *, runs: int | None = None, seconds: float | None = None
) -> list[list[float]]:
    """Milliseconds of each run of each engine: so many ``runs``, or as many as ``seconds`` hold."""
    for run in engines:
        for _ in range(WARM_UP):
            run()
    samples: list[list[float]] = [[] for _ in engines]
    started = time.perf_counter()

    def is_done() -> bool:
        if runs is not None:
            return len(samples[0]) >= runs
        return bool(samples[0]) and time.perf_counter() - started >= (seconds or 0)

    while not is_done():
        for run, taken in zip(engines, samples, strict=True):
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            run()
            taken.append(1e3 * (time.perf_counter() - start))
    return samples


def latency(
    engines: Sequence[Engine],
    *,
    threads: int,
    runs: int | None = None,
    seconds: float | None = None,
) -> list[Timing]:
    """One run at a time: what a user waits. Kernels on an OpenCL device have a row of their own."""
    opened = [engine.open(1, threads)[0] for engine in engines]
    timings: list[Timing] = []
    for engine, taken in zip(engines, in_turns(opened, runs=runs, seconds=seconds), strict=True):
        first_ms = timings[0].p50_ms if timings else None
        about = {"name": engine.name, "clips": engine.clips}
        timings.append(Timing.of(engine.engine, taken, first_ms=first_ms, **about))
        if engine.kernels_ms is not None:
            kernels = engine.kernels_ms[-len(taken) :]
            first_ms = timings[0].p50_ms
            timings.append(Timing.of("its kernels alone", kernels, first_ms=first_ms, **about))
    return timings


@dataclass
class _Turns:
    """Of one engine: milliseconds of each run, clips per second of each turn."""

    samples_ms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def throughput(
    engines: Sequence[Engine], *, threads: int, requests: int, seconds: float
) -> list[Timing]:
    """``requests`` runs at a time for ``seconds`` of each engine: how many clips a machine does.

    The threads are parted among the requests, at least one for each.
    """
    each = max(1, threads // requests)
    opened = [engine.open(requests, each) for engine in engines]
    for runners in opened:
        _at_once(runners, 0.0)
    found = [_Turns() for _ in engines]
    for _ in range(_TURNS):
        for engine, runners, turns in zip(engines, opened, found, strict=True):
            time.sleep(PAUSE_S)
            samples, elapsed = _at_once(runners, seconds / _TURNS)
            turns.samples_ms += samples
            turns.rates.append(engine.clips * len(samples) / elapsed)
    timings: list[Timing] = []
    for engine, turns in zip(engines, found, strict=True):
        timings.append(
            Timing.of(
                engine.engine,
                turns.samples_ms,
                first_ms=timings[0].p50_ms if timings else None,
                name=engine.name,
                clips=engine.clips,
                rates=turns.rates,
            )
        )
    return timings


def _at_once(runners: Sequence[Runner], seconds: float) -> tuple[list[float], float]:
    """Milliseconds of all runs that begin within so long, one at least of each; and the seconds."""
    samples: list[float] = []
    failures: list[Exception] = []
    started = time.perf_counter()

    def repeat(run: Runner) -> None:
        while True:
            begun = time.perf_counter()
            try:
                run()
            except Exception as error:  # noqa: BLE001  # raised again by the thread that waits
                failures.append(error)
                return
            samples.append(1e3 * (time.perf_counter() - begun))
            if time.perf_counter() - started >= seconds:
                return

    workers = [threading.Thread(target=repeat, args=(run,)) for run in runners]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return samples, time.perf_counter() - started
