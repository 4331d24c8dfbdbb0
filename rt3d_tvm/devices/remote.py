"""A device behind a TVM RPC tracker: find it, put an artifact on it, run it, time it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rt3d_tvm.arguments import as_address, as_path
from rt3d_tvm.artifact.batches import part_for
from rt3d_tvm.artifact.cpu_features import lacking_there
from rt3d_tvm.artifact.format import MANIFEST, MODEL, WEIGHTS, read_manifest
from rt3d_tvm.artifact.load import elf_machine
from rt3d_tvm.artifact.opencl.artifact import is_for_opencl
from rt3d_tvm.artifact.tensors import Tensors, given, named
from rt3d_tvm.devices import session as remote_session
from rt3d_tvm.devices.defaults import DEADLINE_S, UPLOAD_BYTES_PER_S, WAIT_S
from rt3d_tvm.devices.device import Device, DeviceFailure
from rt3d_tvm.devices.processor import Processor, fitting_targets
from rt3d_tvm.devices.tracker import ANSWER_S, address_text, request_device, wait_for_device
from rt3d_tvm.errors import InputError

# TVM's server counts the length of a whole session in these deadlines and ends it then, whatever it
# is doing: so long a kernel that hangs can keep the device.
SESSION_DEADLINES = 10


@dataclass(frozen=True, kw_only=True)
class Description:
    """A device: its processor, its memory in bytes (None: could not be asked), what runs on it.

    gpu: its name, units and driver; None where TVM's runtime there knows none. half: whether it
    computes in float16; None where that could not be asked.
    """

    key: str
    address: str
    processor: Processor
    memory: int | None
    gpu: str | None
    half: bool | None
    targets: tuple[str, ...]
    temperatures: dict[str, float]
    answer_ms: float


@dataclass(frozen=True, kw_only=True)
class RemoteTiming:
    """Milliseconds of each run of an artifact on a device, and the temperatures around them.

    It ran on so many ``threads``, or else on the GPU of that name; then they are of its kernels
    alone.
    """

    key: str
    address: str
    threads: int | None
    gpu: str | None
    p50_ms: float
    p90_ms: float
    p99_ms: float
    samples_ms: tuple[float, ...]
    upload_s: float
    upload_bytes: int
    before: dict[str, float]
    after: dict[str, float]


class ThisMachine(Device):
    """This machine as a device, in a process of its own that a kernel may take down."""

    def __init__(self, *, threads: int, deadline_s: float = DEADLINE_S) -> None:
        super().__init__("this machine", deadline_s=deadline_s)
        try:
            self._call("start", remote_session.prepare, deadline_s=DEADLINE_S)
            self._call("start", remote_session.connect_here, threads)
        except BaseException:
            self.close()
            raise
        self.address = "this machine"


class RemoteDevice(Device):
    """One device of a tracker; nobody else can use it meanwhile.

    InputError for a tracker or device that does not answer, and for one that is busy longer than
    ``wait_s``. session_s: how long the server lets the session last.
    """

    def __init__(
        self,
        tracker: tuple[str, int] | str,
        key: str,
        *,
        wait_s: float = WAIT_S,
        deadline_s: float = DEADLINE_S,
        session_s: float | None = None,
    ):
        tracker = as_address(tracker, "tracker")
        super().__init__(f"device {key}", deadline_s=deadline_s)
        self.key, self._session_s = key, session_s or SESSION_DEADLINES * deadline_s
        wait_for_device(tracker, key)
        try:
            # Imports TVM there, which takes longer than a server keeps a match key for.
            self._call("start", remote_session.prepare, deadline_s=max(deadline_s, DEADLINE_S))
            self.address = self._connect(tracker, wait_s)
        except BaseException:
            self.close()
            raise

    def describe(self) -> Description:
        """What the device is, and how long an empty call to it takes."""
        processor, memory, (gpu, half), temperatures, answer_s = self._call(
            "describe itself", remote_session.describe
        )
        return Description(
            key=self.key,
            address=self.address,
            processor=processor,
            memory=memory,
            gpu=gpu,
            half=half,
            targets=fitting_targets(processor, gpu=gpu is not None),
            temperatures=temperatures,
            answer_ms=1e3 * answer_s,
        )

    def load(self, folder: Path, *, threads: int | None = None) -> RemoteArtifact:
        """Upload the artifact in ``folder`` and load it there.

        The weights go from the mapped file straight into the tensors that the model reads.
        threads: by default as many as the device has big cores, or its server if these are fewer.
        An artifact of OpenCL runs on its GPU; InputError for one with threads, and for one in
        float16 where the GPU has none.
        """
        folder = as_path(folder, "folder")
        manifest = read_manifest(folder / MANIFEST)
        for name in (MODEL, WEIGHTS):
            if not (folder / name).is_file():
                raise InputError(
                    f"{folder}: no {name} in it; a folder made by `rt3d compile` has one"
                )
        on_gpu = is_for_opencl(manifest)
        if on_gpu and threads is not None:
            raise InputError(f"{folder} runs on a GPU: threads have no effect")
        size = sum((folder / name).stat().st_size for name in (MODEL, WEIGHTS))
        processor = self.processor()
        if (machine := elf_machine(folder / MODEL)) is None:
            raise InputError(
                f"{folder / MODEL}: not a 64-bit ELF library; `rt3d compile` makes one"
            )
        if processor.machine not in (None, machine):
            fits = ", ".join(fitting_targets(processor, gpu=on_gpu))
            raise InputError(
                f"{folder}: compiled for {machine}, the device {self.key} is {processor.machine}; "
                f"targets that fit: {fits}"
            )
        if missing := lacking_there(manifest["processor"], processor.features):
            fits = ", ".join(fitting_targets(processor, gpu=on_gpu))
            raise InputError(
                f"{folder}: compiled for target {manifest['target']['name']}, the processor of "
                f"device {self.key} has no {', '.join(missing)}; targets that fit: {fits}"
            )
        if threads is not None and not 1 <= threads <= processor.cores:
            raise InputError(
                f"{threads} threads: the device {self.key} has {processor.cores} cores"
            )
        if on_gpu and manifest["precision"]["dtype"] == "float16":
            self.check_half()
        wanted = None if on_gpu else threads or processor.big_cores
        started = time.perf_counter()
        number, running, gpu = self._call(
            f"take {size / 1e6:.1f} MB of {folder}: the upload was interrupted",
            remote_session.upload,
            folder,
            wanted,
            deadline_s=self._deadline_s + size / UPLOAD_BYTES_PER_S,
        )
        if threads is not None and running < threads:
            raise InputError(f"{threads} threads: the server of device {self.key} has {running}")
        seconds = time.perf_counter() - started
        return RemoteArtifact(self, number, manifest, running, gpu, size, seconds)

    def _connect(self, tracker: tuple[str, int], wait_s: float) -> str:
        until = time.monotonic() + wait_s
        while True:
            left = max(until - time.monotonic(), 1.0)
            host, port, match_key = request_device(tracker, self.key, wait_s=left)
            try:
                self._call(
                    "connect", remote_session.connect, host, port, match_key, self._session_s,
                    deadline_s=ANSWER_S,
                )  # fmt: skip
            except DeviceFailure as error:
                if time.monotonic() >= until:
                    address = address_text((host, port))
                    raise DeviceFailure(f"{error} ({address})", error.kind, address) from error
                time.sleep(0.5)  # the server was restarted meanwhile: it has another match key
                self._call("start", remote_session.prepare, deadline_s=DEADLINE_S)
            else:
                return address_text((host, port))


@dataclass(frozen=True, eq=False)
class RemoteArtifact:
    """An artifact on a device, loaded; how many bytes and seconds its upload took.

    number: of the session's artifacts, which stay until it ends.
    """

    device: RemoteDevice
    number: int
    manifest: dict
    threads: int | None
    gpu: str | None
    upload_bytes: int
    upload_s: float

    def run(self, x: np.ndarray | Mapping[str, np.ndarray]) -> Tensors:
        """The model's output for one input, or for several by name.

        InputError for another shape, type or name.
        """
        part = part_for(self.manifest, x)
        results = self.device._call(
            "run the model",
            remote_session.run,
            self.number,
            given(part, x),
            len(part["outputs"]),
            part["function"],
        )
        return named(part, results)

    def time(self, x: Tensors, *, runs: int = 20) -> RemoteTiming:
        """Time ``runs`` runs on the input ``x``, by the device's own clock, after two to warm up.

        Each run is a call of its own, so that each has the deadline for itself.
        """
        (timing,) = time_in_turns([self], [x], runs=runs)
        return timing


def time_in_turns(
    artifacts: Sequence[RemoteArtifact], inputs: Sequence[Tensors], *, runs: int = 20
) -> list[RemoteTiming]:
    """Time artifacts of one device in turns, ``runs`` times each, as `RemoteArtifact.time` does."""
    device = artifacts[0].device
    before = device.temperatures()
    for artifact, x in zip(artifacts, inputs, strict=True):
        artifact.run(x)
    samples: list[list[float]] = [[] for _ in artifacts]
    for _ in range(runs):
        for artifact, taken in zip(artifacts, samples, strict=True):
            seconds = device._call("run the model", remote_session.timed_run, artifact.number)
            taken.append(1e3 * seconds)
    after = device.temperatures()
    timings = []
    for artifact, taken in zip(artifacts, samples, strict=True):
        p50, p90, p99 = np.percentile(taken, (50, 90, 99))
        timings.append(
            RemoteTiming(
                key=device.key,
                address=device.address,
                threads=artifact.threads,
                gpu=artifact.gpu,
                p50_ms=float(p50),
                p90_ms=float(p90),
                p99_ms=float(p99),
                samples_ms=tuple(taken),
                upload_s=artifact.upload_s,
                upload_bytes=artifact.upload_bytes,
                before=before,
                after=after,
            )
        )
    return timings
