"""Several devices that measure kernels in parallel, and what becomes of those that misbehave.

A thread drives each device. A kernel that takes its session down is tried once more; if it fails
again, a kernel that is known to work decides whose fault it was: the kernel's, or the device's,
which is then quarantined.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from rt3d_tvm.devices.processor import hottest
from rt3d_tvm.devices.remote import Device, DeviceFailure
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune.measuring import (
    MOST_FAILURES,
    RETRY_S,
    TRIAL,
    Job,
    Outcome,
    Pauses,
    Timing,
    together,
)

Found = TypeVar("Found")


@dataclass
class _Slot:
    """One device, or the wait for it."""

    number: int
    state: str = "starting"
    device: Device | None = None
    opened: float = 0.0
    held: set[str] = field(default_factory=set)


class Devices:
    """``count`` devices, each opened by ``opener`` when it is needed, for as long as it works.

    renew_s: sessions older than that are opened anew before the next trial. patience_s: how long
    to wait for a device that is not there before its slot is given up. ``say`` is told what happens
    to devices.
    """

    def __init__(
        self,
        opener: Callable[[], Device],
        count: int,
        *,
        say: Callable[[str], None],
        pauses: Pauses | None = None,
        renew_s: float = float("inf"),
        patience_s: float = 300.0,
    ) -> None:
        self._opener, self._say, self._pauses = opener, say, pauses or Pauses()
        self._renew_s, self._patience_s = renew_s, patience_s
        self._jobs: queue.Queue[tuple[Job, Timing, int]] = queue.Queue()
        self._done: queue.Queue[tuple[Job, Outcome]] = queue.Queue()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._failures: Counter[str] = Counter()
        self._reference: Job | None = None
        self.quarantined: dict[str, str] = {}
        self._slots = [_Slot(number) for number in range(1, count + 1)]
        self._threads = [
            threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in self._slots
        ]
        self._last_words = ""
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Devices:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for slot in self._slots:
            if (device := slot.device) is not None:
                device.interrupt()
        for thread in self._threads:
            thread.join(timeout=5)

    @property
    def states(self) -> list[str]:
        """What each device is doing, for a person to read."""
        return [slot.state for slot in self._slots]

    @property
    def reference(self) -> Job | None:
        """The job that is known to work: the first that did; its library has to stay."""
        return self._reference

    def measure(self, jobs: Iterable[Job], timing: Timing = TRIAL) -> Iterator[tuple[Job, Outcome]]:
        """The outcome of every job, as they come. InputError when no device is left.

        Each job is begun as soon as ``jobs`` gives it.
        """
        count = 0
        for count, job in enumerate(jobs, 1):  # noqa: B007 the count is what is left
            self._jobs.put((job, timing, 0))
        for _ in range(count):
            while True:
                try:
                    yield self._done.get(timeout=0.2)
                    break
                except queue.Empty:
                    if not any(thread.is_alive() for thread in self._threads):
                        raise InputError(f"no device is left: {self._last_words}") from None

    def alone(self, use: Callable[[Device], Found], job: Job) -> Found:
        """What ``use`` makes of a device that holds the arguments of ``job``, on this thread.

        For work between two calls of `measure`, while no device is busy. DeviceFailure as they are.
        """
        for slot, thread in zip(self._slots, self._threads, strict=True):
            if thread.is_alive() and self._open(slot):
                try:
                    self._hold(slot, job)
                    return use(slot.device)
                except DeviceFailure:
                    self._close(slot)
                    raise
        raise InputError(f"no device is left: {self._last_words}")

    def in_turns(self, jobs: Sequence[Job], timing: Timing) -> list[list[float]]:
        """Seconds of each run of each job, the jobs in turns, each turn on one device; as `alone`.

        A turn of a job is an operation of its own: its deadline is for no more runs than a trial's.
        """

        def turn(device: Device) -> list[list[float]]:
            how = {"repeats": timing.repeats, "min_repeat_ms": timing.min_repeat_ms}
            return [device.time_kernels([(j.path, j.names)], turns=1, **how)[0] for j in jobs]

        turns = [self.alone(turn, together(jobs)) for _ in range(timing.turns)]
        return [
            [value for taken in of_job for value in taken] for of_job in zip(*turns, strict=True)
        ]

    def results(self, jobs: Sequence[Job]) -> dict[Any, np.ndarray]:
        """What each job computes, by its id, all on one device; as `alone`."""

        def run(device: Device) -> dict[Any, np.ndarray]:
            return {job.id: device.run_kernel(job.path, job.names) for job in jobs}

        return self.alone(run, together(jobs))

    def _serve(self, slot: _Slot) -> None:
        try:
            while not self._stop.is_set():
                try:
                    job, timing, passed = self._jobs.get(timeout=0.2)
                except queue.Empty:
                    continue
                outcome = self._outcome(slot, job, timing)
                if outcome is not None:
                    self._done.put((job, outcome))
                elif passed < MOST_FAILURES:
                    self._jobs.put((job, timing, passed + 1))
                else:
                    message = f"took {passed + 1} devices down"
                    self._done.put((job, Outcome(kind="died", message=message)))
                if outcome is None:
                    break
        finally:
            if slot.device is not None:
                slot.device.close()

    def _outcome(self, slot: _Slot, job: Job, timing: Timing) -> Outcome | None:
        """The outcome of a job; None where it is the slot that is to be given up."""
        failure: DeviceFailure | None = None
        attempt = 0
        while True:
            attempt += 1
            by_reference = attempt >= MOST_FAILURES and self._reference is not None
            tried = self._reference if by_reference else job
            try:
                if not self._open(slot):
                    return None
                outcome = self._timed(slot, tried, timing)
            except DeviceFailure as error:
                if self._stop.is_set():
                    return None
                failure = failure or error
                address = slot.device.address
                self._close(slot)
                # Kernels that crash, of other slots as well, are no fault of the device's.
                to_blame = by_reference or self._reference is None
                if self._quarantine(slot, address, error, to_blame=to_blame):
                    return None
                continue
            with self._lock:
                self._failures[slot.device.address] = 0
                if tried is job:
                    self._reference = self._reference or job
            if tried is job:
                return outcome
            return Outcome(kind=failure.kind, message=str(failure), device=slot.device.address)

    def _timed(self, slot: _Slot, job: Job, timing: Timing) -> Outcome:
        self._hold(slot, job)
        celsius = self._cooled(slot)
        slot.state = f"{slot.device.address}: measuring"
        (seconds,) = slot.device.time_kernels(
            [(job.path, job.names)],
            turns=timing.turns,
            repeats=timing.repeats,
            min_repeat_ms=timing.min_repeat_ms,
        )
        slot.state = f"{slot.device.address}: idle"
        return Outcome(seconds=tuple(seconds), device=slot.device.address, celsius=celsius)

    def _open(self, slot: _Slot) -> bool:
        """A session that is young enough; False where there is none to be had."""
        if slot.device is not None and time.monotonic() - slot.opened < self._renew_s:
            return True
        self._close(slot)
        until = time.monotonic() + self._patience_s
        while not self._stop.is_set():
            try:
                device = self._opener()
            except InputError as error:
                self._last_words = str(error)
                slot.state = f"waiting: {error}"
                address = getattr(error, "address", None)
                if address is not None and self._quarantine(slot, address, error, to_blame=True):
                    return False
                if time.monotonic() >= until:
                    self._say(f"given up: {error}")
                    return False
                self._stop.wait(RETRY_S)
                continue
            if device.address not in self.quarantined:
                slot.device, slot.opened = device, time.monotonic()
                return True
            device.close()
            slot.state = f"waiting for another device than {device.address}"
            if time.monotonic() >= until:
                return False
            self._stop.wait(RETRY_S)
        return False

    def _hold(self, slot: _Slot, job: Job) -> None:
        """Put the job's arguments on the device, and drop those of others."""
        if old := slot.held - set(job.names):
            slot.device.drop(old)
            slot.held -= old
        for name, value in job.arguments.items():
            if name not in slot.held:
                slot.state = f"{slot.device.address}: taking arguments"
                if isinstance(value, tuple):
                    slot.device.allocate(name, *value)
                else:
                    slot.device.put(name, value)
                slot.held.add(name)

    def _cooled(self, slot: _Slot) -> float | None:
        """Rest as asked; the temperature after it, where one is shown."""
        limit = self._pauses.max_celsius
        if self._pauses.rest_s:
            slot.state = f"{slot.device.address}: resting"
            self._stop.wait(self._pauses.rest_s)
        if limit is None:
            return None
        while True:
            celsius = hottest(slot.device.temperatures())
            if celsius is None:
                raise DeviceFailure(f"{slot.device.address} shows no temperature", "error")
            if celsius <= limit or self._stop.is_set():
                return celsius
            slot.state = f"{slot.device.address}: cooling, {celsius:.1f} °C"
            self._stop.wait(RETRY_S)

    def _quarantine(self, slot: _Slot, address: str, error: InputError, *, to_blame: bool) -> bool:
        """Whether the device has now failed too often, this time by itself; it is named then."""
        self._last_words = str(error)
        with self._lock:
            self._failures[address] += 1
            # One that is quarantined has cost a slot; whoever meets it again looks for another.
            few = self._failures[address] < MOST_FAILURES
            if few or not to_blame or address in self.quarantined:
                return False
            self.quarantined[address] = str(error)
        slot.state = f"{address}: quarantined"
        self._say(f"{address} is quarantined: {error}")
        return True

    def _close(self, slot: _Slot) -> None:
        if slot.device is not None:
            slot.device.close()
            slot.device = None
        slot.held.clear()
