"""The emulated phone, for graphs: one session for many of them, renewed after a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rt3d_tvm.artifact.tensors import Tensors
from rt3d_tvm.devices.remote import DeviceFailure, RemoteDevice
from rt3d_tvm.errors import InputError

_SCRIPT = Path(__file__).parents[1] / "phone" / "emulated_phone.sh"
_SESSION = 50  # artifacts until a session is renewed: it keeps them all
_KEY = "fuzz-phone"
_DEADLINE_S = 300.0

_device: RemoteDevice | None = None
_loaded = 0


class DeviceFault(RuntimeError):
    """The phone died or did not answer."""


def run_there(folder: Path, x: np.ndarray | Mapping[str, np.ndarray]) -> Tensors:
    """The outputs of an artifact on the phone; DeviceFault where the phone fails."""
    global _device, _loaded
    if _device is None or _loaded >= _SESSION:
        close()
        host, port = os.environ["FUZZ_PHONE"].split(":")
        _device = RemoteDevice(
            (host, int(port)), _KEY, wait_s=_DEADLINE_S, deadline_s=_DEADLINE_S, session_s=36000
        )
        _loaded = 0
    _loaded += 1
    try:
        return _device.load(folder).run(x)
    except DeviceFailure as failure:
        close()
        raise DeviceFault(f"{failure.kind}: {failure}") from failure


def close() -> None:
    """End the session."""
    global _device
    if _device is not None:
        _device.close()
        _device = None


def start() -> None:
    """Start the phone, and tell the processes that judge cases where it is."""
    os.environ["FUZZ_PHONE"] = _script("start", "--key", _KEY).split()[-3]


def stop() -> None:
    """End the phone."""
    _script("stop")


def _script(*arguments: str) -> str:
    state = Path(__file__).parents[2] / "build" / "fuzz" / "phone"
    done = subprocess.run(
        [_SCRIPT, *arguments],
        env={**os.environ, "PHONE_STATE": str(state), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise InputError(f"the emulated phone: {' / '.join(done.stderr.splitlines()[-2:])}")
    return done.stdout
