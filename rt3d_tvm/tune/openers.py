"""What a search measures on: this machine, one of its OpenCL devices, or devices of a tracker."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from functools import partial

from rt3d_tvm.artifact.load import available_cores
from rt3d_tvm.compile.targets import is_opencl, make_target
from rt3d_tvm.devices.opencl_machine import OpenCLMachine
from rt3d_tvm.devices.processor import Processor, fitting_targets
from rt3d_tvm.devices.remote import Device, DeviceFailure, RemoteDevice, ThisMachine
from rt3d_tvm.devices.tracker import NO_TRACKER, wait_for_device
from rt3d_tvm.errors import InputError

# Sessions with a device last a few deadlines of a trial: so long a kernel that hangs keeps it.
SESSION_DEADLINES = 4
# Seconds to wait for a device that is free before the next attempt.
WAIT_S = 30.0


def opencl_opener(
    key: str | None,
    target: str,
    threads: int | None,
    wanted: str | None,
    half: bool,
    deadline_s: float,
) -> Callable[[], Device]:
    """What opens an OpenCL device of this machine to measure on."""
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
    return partial(OpenCLMachine, wanted, half=half, deadline_s=deadline_s)


def device_opener(
    tracker: tuple[str, int] | None,
    key: str | None,
    target: str,
    threads: int | None,
    deadline_s: float,
    *,
    half: bool = False,
) -> tuple[Callable[[], Device], int, float, str | None]:
    """What opens a device to measure on, here or at a tracker, and how many there are.

    half: whether kernels compute in float16; InputError for a tracker's GPU that does not.
    Third the age in seconds at which a session is to be opened anew, before its server ends it;
    then the name of its GPU, where kernels are to run on that.
    """
    if tracker is None:
        if key is not None:
            raise InputError(NO_TRACKER)
        if target != "host":
            raise InputError(
                f"target {target!r} is not this machine: name a tracker and a key, or tune for host"
            )
        cores = threads or available_cores()
        if cores > available_cores():
            raise InputError(f"{threads} threads: this machine has {available_cores()} cores")
        return partial(ThisMachine, threads=cores, deadline_s=deadline_s), 1, float("inf"), None
    if key is None:
        raise InputError("a tracker has devices of several kinds: a key is needed as well")
    made_for = make_target(target)
    on_gpu = is_opencl(made_for)
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

    processor, gpu = _first_device(opened, offer.devices, on_gpu=on_gpu, half=half)
    host = made_for.host or made_for
    machine = str(host.attrs.get("mtriple", platform.machine())).partition("-")[0]
    if processor.machine not in (None, machine):
        fits = ", ".join(fitting_targets(processor, gpu=on_gpu))
        raise InputError(
            f"target {target}: is {machine}, the device {key} is {processor.machine}; targets that "
            f"fit: {fits}"
        )
    return opened, offer.devices, SESSION_DEADLINES * deadline_s / 2, gpu


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
