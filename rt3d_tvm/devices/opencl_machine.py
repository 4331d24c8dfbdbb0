"""An OpenCL device of this machine as a device that kernels are measured on."""

from __future__ import annotations

from rt3d_tvm.devices import opencl_session as session
from rt3d_tvm.devices import session as remote_session
from rt3d_tvm.devices.defaults import DEADLINE_S
from rt3d_tvm.devices.device import Device


class OpenCLMachine(Device):
    """One OpenCL device, in a process of its own that a kernel or its compiler may take down.

    wanted: a part of its name, by default the first that will do; half: it has to have float16.
    """

    side = session

    def __init__(
        self, wanted: str | None = None, *, half: bool = False, deadline_s: float = DEADLINE_S
    ) -> None:
        super().__init__("the OpenCL device", deadline_s=deadline_s)
        try:
            self._call("start", remote_session.prepare, deadline_s=DEADLINE_S)
            self.address = self._call("start", session.connect, wanted, half)
        except BaseException:
            self.close()
            raise
