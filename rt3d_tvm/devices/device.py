"""A device held by a process of its own: whatever it does there, this side goes on.

TVM's client waits for ever for a device that went away. Everything that talks to one therefore runs
in a process of its own, which is ended at a deadline of this side's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np

from rt3d_tvm.artifact.opencl.drivers import lacks_half
from rt3d_tvm.devices import session as remote_session
from rt3d_tvm.devices.defaults import DEADLINE_S, UPLOAD_BYTES_PER_S
from rt3d_tvm.devices.processor import Processor
from rt3d_tvm.devices.worker import Worker
from rt3d_tvm.errors import InputError

# The kind of device that a `with` statement holds.
Held = TypeVar("Held", bound="Device")


class DeviceFailure(InputError):
    """What went wrong on a device. kind: "no answer", "died" or "error".

    address: the device's, where it failed before there was a session.
    """

    def __init__(self, message: str, kind: str, address: str | None = None) -> None:
        super().__init__(message)
        self.kind, self.address = kind, address


class Device:
    """A device held by a process of its own until `close`.

    DeviceFailure for whatever goes wrong on it. Each operation ends by its deadline, in seconds; an
    operation that fails ends the session. side: the module whose functions run in the process.
    address: where it is, which those who open one find out.
    """

    side: ModuleType = remote_session
    address: str

    def __init__(self, name: str, *, deadline_s: float) -> None:
        self.name, self._deadline_s = name, deadline_s
        self._worker = Worker()

    def __enter__(self: Held) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session: the device is free again."""
        self._worker.kill()

    def interrupt(self) -> None:
        """End the session from another thread, whose operation fails; it has to `close` then."""
        self._worker.interrupt()

    def temperatures(self) -> dict[str, float]:
        """Degrees Celsius by thermal zone; empty where the device shows none."""
        return self._call("read its temperatures", self.side.temperatures)

    def use_threads(self, threads: int | None = None) -> None:
        """Run kernels on that many threads, the fastest cores first; by default on the big ones.

        DeviceFailure where its server has fewer than that many.
        """
        wanted = threads or self.processor().big_cores
        running = self._call("set its threads", self.side.use_threads, wanted)
        if threads is not None and running < threads:
            raise DeviceFailure(
                f"{self.name}: {threads} threads: its server has {running}", "error"
            )

    def use_opencl(self) -> str:
        """Run kernels on its GPU; its name, with its units and driver.

        DeviceFailure where TVM's runtime there knows none.
        """
        return self._call("use its GPU", self.side.use_opencl)

    def check_half(self) -> None:
        """InputError where its GPU cannot compute in float16; one that nothing is known of passes.

        DeviceFailure where there is no GPU.
        """
        # A kernel is made here for that; a linker's first use may take longer than a trial may.
        limit = max(self._deadline_s, DEADLINE_S)
        name, half = self._call("use its GPU", self.side.gpu, deadline_s=limit)
        if half is False:
            raise lacks_half(f"{self.name}: {name}")

    def processor(self) -> Processor:
        """Its processor."""
        return self._call("describe itself", self.side.processor)

    def put(self, name: str, value: np.ndarray) -> None:
        """Keep an array on the device under a name."""
        self._call(
            f"take an argument of {value.nbytes / 1e6:.1f} MB",
            self.side.put,
            name,
            value,
            deadline_s=self._deadline_s + value.nbytes / UPLOAD_BYTES_PER_S,
        )

    def allocate(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """Room for an array on the device under a name."""
        self._call("make room", self.side.allocate, name, shape, dtype)

    def drop(self, names: Collection[str]) -> None:
        """Free the arrays of those names."""
        self._call("free arguments", self.side.drop, names)

    def time_kernels(
        self, kernels: Sequence[tuple[Path, tuple[str, ...]]], **how: int
    ) -> list[list[float]]:
        """Seconds of each run of each kernel, in turns; see `remote_session.time_kernels`."""
        return self._call("run a kernel", partial(self.side.time_kernels, **how), kernels)

    def run_kernel(self, path: Path, names: tuple[str, ...]) -> np.ndarray:
        """What a kernel writes into its last argument."""
        return self._call("run a kernel", self.side.run_kernel, path, names)

    def _call(self, what: str, function: Callable, *args: object, deadline_s: float | None = None):
        """Call a function of remote_session in the session's process."""
        deadline_s = deadline_s or self._deadline_s
        if not self._worker.alive and function is not remote_session.prepare:
            raise DeviceFailure(f"{self.name}: this session has ended; open another", "died")
        self._worker.start(remote_session.guarded, function, *args, deadline_s=deadline_s)
        try:
            value, error = self._worker.result()
        except TimeoutError:
            raise DeviceFailure(
                f"{self.name}: no answer within {deadline_s:g} s when asked to {what}", "no answer"
            ) from None
        except ChildProcessError as died:
            raise DeviceFailure(f"{self.name} could not {what}: {died}", "died") from died
        if error is not None:
            self.close()
            kind = "died" if error == remote_session.ENDED else "error"
            raise DeviceFailure(f"{self.name} could not {what}: {error}", kind)
        return value
