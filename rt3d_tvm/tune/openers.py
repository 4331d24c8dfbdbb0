"""What a search measures on: this machine, one of its OpenCL devices, devices of a tracker, or a
machine without TVM that a program is brought to."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from rt3d_tvm.artifact.load import available_cores
from rt3d_tvm.artifact.opencl.drivers import choose_device, describe
from rt3d_tvm.bundle.static_link import check_linker
from rt3d_tvm.compile.link import export_arguments
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.devices.opencl_machine import OpenCLMachine
from rt3d_tvm.devices.processor import Processor, fitting_targets
from rt3d_tvm.devices.remote import Device, DeviceFailure, RemoteDevice, ThisMachine
from rt3d_tvm.devices.shell import Machine, title
from rt3d_tvm.devices.tracker import NO_TRACKER, wait_for_device
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune.batch_program import BatchTarget
from rt3d_tvm.tune.batches import Batches
from rt3d_tvm.tune.builder import LIBRARY, OBJECT, PLAN
from rt3d_tvm.tune.fleet import Devices
from rt3d_tvm.tune.measuring import Opened

# Sessions with a device last a few deadlines of a trial: so long a kernel that hangs keeps it.
SESSION_DEADLINES = 4
# Seconds to wait for a device that is free before the next attempt.
WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Opener:
    """What a search measures on.

    opened      makes its devices: of who is told of them (``say``), ``pauses``, ``patience_s``
    settings    what of the device a search holds for, as its work directory says
    kind        the kind of file that it runs, of `builder`
    overlap     whether kernels are built while others are measured
    """

    opened: Opened
    settings: Mapping[str, str] = field(default_factory=dict)
    kind: str = LIBRARY
    overlap: bool = False


def open_for(
    target: str,
    lowering: Lowering,
    *,
    tracker: tuple[str, int] | None,
    key: str | None,
    threads: int | None,
    opencl: str | None,
    machine: Machine | None,
    deadline_s: float,
) -> Opener:
    """The devices that kernels of a target, called ``target``, are measured on.

    machine: one without TVM. InputError for a target that is not there, and for options that it
    does not have.
    """
    on_gpu = lowering.backend.on_gpu
    if machine is not None:
        if tracker is not None or key is not None or opencl is not None:
            raise InputError(
                f"{machine.name} has no TVM: a tracker, its key and an OpenCL device are of others"
            )
        return _on_machine(machine, target, lowering, threads, deadline_s)
    if on_gpu and tracker is None:
        return _here_on_opencl(target, lowering, key, threads, opencl, deadline_s)
    if opencl is not None:
        runs_on = "the GPU of the tracker's device" if on_gpu else "cores"
        raise InputError(f"target {target} runs on {runs_on}, not on the OpenCL device {opencl!r}")
    export_arguments(lowering.target.host or lowering.target)
    if tracker is None:
        return _here(target, key, threads, deadline_s)
    return _at_tracker(target, lowering, tracker, key, threads, deadline_s)


def _here_on_opencl(
    target: str,
    lowering: Lowering,
    key: str | None,
    threads: int | None,
    wanted: str | None,
    deadline_s: float,
) -> Opener:
    """An OpenCL device of this machine."""
    if key is not None:
        raise InputError(NO_TRACKER)
    if target != "opencl":
        raise InputError(
            f"target {target} is a GPU that is not in this machine, and what is fast here may be "
            "slow there: name a tracker and a key, or tune target opencl, for a device of this "
            "machine"
        )
    if threads is not None:
        raise InputError(f"target {target} runs on an OpenCL device: threads have no effect")
    half = lowering.precision.dtype == "float16"
    return Opener(
        opened=_fleet(partial(OpenCLMachine, wanted, half=half, deadline_s=deadline_s)),
        # What is found holds for that device.
        settings={"opencl": str(describe(choose_device(wanted, half=half)))},
        kind=PLAN,
    )


def _here(target: str, key: str | None, threads: int | None, deadline_s: float) -> Opener:
    """The cores of this machine."""
    if key is not None:
        raise InputError(NO_TRACKER)
    if target != "host":
        raise InputError(
            f"target {target!r} is not this machine: name a tracker and a key, or tune for host"
        )
    cores = threads or available_cores()
    if cores > available_cores():
        raise InputError(f"{threads} threads: this machine has {available_cores()} cores")
    return Opener(opened=_fleet(partial(ThisMachine, threads=cores, deadline_s=deadline_s)))


def _at_tracker(
    target: str,
    lowering: Lowering,
    tracker: tuple[str, int],
    key: str | None,
    threads: int | None,
    deadline_s: float,
) -> Opener:
    """The devices of a tracker under one key; InputError for GPUs without float16 it takes."""
    if key is None:
        raise InputError("a tracker has devices of several kinds: a key is needed as well")
    on_gpu = lowering.backend.on_gpu
    if on_gpu and threads is not None:
        raise InputError(f"target {target} runs on a GPU: threads have no effect")
    offer = wait_for_device(tracker, key)

    def opened() -> Device:
        device = RemoteDevice(
            tracker,
            key,
            wait_s=WAIT_S,
            deadline_s=deadline_s,
            session_s=SESSION_DEADLINES * deadline_s,
        )
        try:
            if on_gpu:
                device.use_opencl()
            else:
                device.use_threads(threads)
        except DeviceFailure as error:
            device.close()
            raise DeviceFailure(str(error), error.kind, device.address) from error
        return device

    half = lowering.precision.dtype == "float16"
    processor, gpu = _first_device(opened, offer.devices, on_gpu=on_gpu, half=half)
    _check_machine(processor, target, lowering, key)
    renew_s = SESSION_DEADLINES * deadline_s / 2
    return Opener(
        opened=_fleet(opened, offer.devices, renew_s=renew_s),
        settings={"gpu": gpu} if gpu else {},
        overlap=True,
    )


def _on_machine(
    machine: Machine, target: str, lowering: Lowering, threads: int | None, deadline_s: float
) -> Opener:
    """A machine that programs are brought to; InputError where it runs none for the target."""
    if lowering.backend.on_gpu:
        raise InputError(f"target {target} runs on a GPU, which takes TVM's RPC: name a tracker")
    check_linker()
    machine.check()
    name = title(machine)
    opened = partial(
        Batches,
        machine,
        BatchTarget.of(lowering.target),
        name=name,
        threads=threads,
        deadline_s=deadline_s,
    )
    with opened(say=lambda line: None) as device:
        device.probe()
    return Opener(opened=opened, settings={"device": name}, kind=OBJECT)


def _fleet(open_one: Callable[[], Device], count: int = 1, **how: float) -> Opened:
    """Devices that are opened one by one."""
    return partial(Devices, open_one, count, **how)


def _check_machine(processor: Processor, target: str, lowering: Lowering, key: str) -> None:
    """InputError where the target's code is for another kind of processor."""
    host = lowering.target.host or lowering.target
    machine = str(host.attrs.get("mtriple", platform.machine())).partition("-")[0]
    if processor.machine not in (None, machine):
        fits = ", ".join(fitting_targets(processor, gpu=lowering.backend.on_gpu))
        raise InputError(
            f"target {target}: is {machine}, the device {key} is {processor.machine}; targets that "
            f"fit: {fits}"
        )


def _first_device(
    opened: Callable[[], Device], devices: int, *, on_gpu: bool, half: bool
) -> tuple[Processor, str | None]:
    """The processor and the GPU of the first device that answers; they are of one kind."""

    def told(device: Device) -> tuple[Processor, str | None]:
        if on_gpu and half:
            device.check_half()
        return device.processor(), device.use_opencl() if on_gpu else None

    for _ in range(devices):
        with contextlib.suppress(DeviceFailure), opened() as device:
            return told(device)
    with opened() as device:
        return told(device)
