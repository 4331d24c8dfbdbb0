"""What devices measure and how, and what becomes of it; the same for every kind of device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

# An argument of a kernel: an array, or (shape, dtype) for room.
Value = np.ndarray | tuple[tuple[int, ...], str]
# Failures one after the other, the last of them with a kernel known to work, and the device is
# quarantined.
MOST_FAILURES = 3
# Seconds: between two attempts to open a session, and between two looks at a thermometer.
RETRY_S = 2.0


@dataclass(frozen=True, eq=False)
class Job:
    """A kernel's file, and the arguments of its ``main`` by name.

    A name always stands for the same value. ``id`` is the caller's.
    """

    id: Any
    path: Path
    arguments: dict[str, Value]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arguments, in order."""
        return tuple(self.arguments)


def together(jobs: Sequence[Job]) -> Job:
    """A job that holds the arguments of them all."""
    arguments = {name: value for job in jobs for name, value in job.arguments.items()}
    return Job(None, jobs[0].path, arguments)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Seconds of each run of a job, or what became of it: a kind and a message."""

    seconds: tuple[float, ...] = ()
    kind: str | None = None
    message: str = ""
    device: str = ""
    celsius: float | None = None


@dataclass(frozen=True, kw_only=True)
class Pauses:
    """What a device does between two trials: rest so many seconds, and until it is that cool.

    A device that shows no temperature fails where one is asked for.
    """

    rest_s: float = 0.0
    max_celsius: float | None = None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How a kernel is timed: ``repeats`` runs of at least ``min_repeat_ms`` in every turn."""

    turns: int = 1
    repeats: int = 5
    min_repeat_ms: int = 10


TRIAL = Timing()


class Measuring(Protocol):
    """The devices of a search, whatever they are; a context manager.

    InputError from any of these when no device is left.
    """

    quarantined: dict[str, str]

    def __enter__(self) -> Measuring: ...

    def __exit__(self, *_: object) -> None: ...

    @property
    def states(self) -> list[str]:
        """What each device is doing, for a person to read."""

    @property
    def reference(self) -> Job | None:
        """The job that is known to work: the first that did; its file has to stay."""

    def measure(self, jobs: Iterable[Job], timing: Timing = TRIAL) -> Iterator[tuple[Job, Outcome]]:
        """The outcome of every job, as they come."""

    def in_turns(self, jobs: Sequence[Job], timing: Timing) -> list[list[float]]:
        """Seconds of each run of each job, the jobs in turns.

        DeviceFailure where one fails; a device that can tell which leaves that one without seconds,
        if it is not the first.
        """

    def results(self, jobs: Sequence[Job]) -> Mapping[Any, np.ndarray]:
        """What each job computes, by its id; as `in_turns`."""


# Makes the devices of a search, once it is known who is told of them.
Opened = Callable[..., Measuring]
