"""Android devices that a static program is brought to and run on, by adb."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from uuid import uuid4

from rt3d_tvm.devices.commands import Away, Lines, Ran, called, check_copied, known, watched
from rt3d_tvm.devices.shell import PATIENCE_S, REMOVE_OLD, script_of
from rt3d_tvm.errors import InputError

# Where a shell without root may write and run what is written.
ANDROID_FOLDER = PurePosixPath("/data/local/tmp")
# What begins the last line of a script, before its status.
_STATUS = "rt3d-status"
_PROPERTIES = {
    "manufacturer": "ro.product.manufacturer",
    "model": "ro.product.model",
    "soc": "ro.soc.model",
    "board": "ro.board.platform",
    "android": "ro.build.version.release",
}
_GONE = re.compile("not found|offline|no devices|closed|protocol fault|no answer")


@dataclass(frozen=True, kw_only=True)
class Adb:
    """An Android device that adb lists, by its serial."""

    serial: str

    @property
    def name(self) -> str:
        """As tables call it."""
        return self.serial

    def check(self) -> None:
        """`Away` where adb does not have it ready."""
        try:
            find_adb(self.serial)
        except InputError as error:
            raise Away(str(error)) from error

    def describe(self) -> dict[str, str]:
        """Maker, model, SoC and Android version, as its properties have them."""
        script = "; ".join(f"getprop {name}" for name in _PROPERTIES.values())
        values = self.adb("shell", script).output.split("\n")
        return known(dict(zip(_PROPERTIES, values, strict=False)))

    def open(self) -> _FolderOverAdb:
        """A folder where a shell may write and run."""
        folder = f"{ANDROID_FOLDER}/rt3d-{uuid4().hex[:12]}"
        old = REMOVE_OLD.format(parent=ANDROID_FOLDER)
        made = self.adb("shell", f"{old}; mkdir {folder}")
        if made.status:
            raise self.gone_or(made, f"no folder can be made: {made.reason}")
        return _FolderOverAdb(self, folder)

    def adb(self, *arguments: str, timeout_s: float = PATIENCE_S) -> Ran:
        """A command of adb's for this device."""
        return called(self.name, self.command(*arguments), timeout_s)

    def command(self, *arguments: str) -> list[str]:
        """The same, not yet run."""
        return ["adb", "-s", self.serial, *arguments]

    def gone_or(self, ran: Ran, reason: str) -> InputError:
        """The error for a device that is no longer there, else for ``reason``."""
        if _GONE.search(ran.error):
            return Away(f"{self.name}: went away: {ran.reason}; is its cable in?")
        return InputError(f"{self.name}: {reason}")


@dataclass(frozen=True)
class _FolderOverAdb:
    machine: Adb
    path: str

    def put(self, files: Sequence[Path], timeout_s: float) -> None:
        arguments = ("push", *map(str, files), f"{self.path}/")
        pushed = self.machine.adb(*arguments, timeout_s=timeout_s)
        if pushed.status and _GONE.search(pushed.error):
            raise self.machine.gone_or(pushed, "")
        check_copied(pushed, self.machine.name, files)

    def get(self, name: str, to: Path, timeout_s: float) -> None:
        arguments = ("pull", f"{self.path}/{name}", str(to))
        pulled = self.machine.adb(*arguments, timeout_s=timeout_s)
        if pulled.status:
            reason = f"{name} cannot be fetched: {pulled.reason}"
            raise self.machine.gone_or(pulled, reason)

    def remove(self, names: Sequence[str]) -> None:
        self.machine.adb("shell", f"cd {self.path} && rm -f {' '.join(names)}")

    def run(
        self,
        program: str,
        arguments: Sequence[str],
        silence_s: float,
        said: Callable[[str], None],
    ) -> Ran:
        script = script_of(self.path, program, arguments)
        # Older versions of adb do not return the command's status.
        command = self.machine.command("shell", f"{script}; echo; echo {_STATUS} $?")
        ran = watched(self.machine.name, command, silence_s, said)
        output, mark, status = ran.output.rpartition(f"\n{_STATUS} ")
        if not mark or not status.strip().isdecimal():
            raise self.machine.gone_or(ran, f"the program did not end: {ran.reason}")
        return Ran(status=int(status), output=output, error=ran.error or output)

    def start(self, program: str, arguments: Sequence[str]) -> Lines:
        return Lines(self.machine.command("shell", script_of(self.path, program, arguments)))

    def close(self) -> None:
        removed = self.machine.adb("shell", f"rm -rf {self.path}")
        if removed.status:
            raise self.machine.gone_or(removed, f"{self.path} cannot be removed: {removed.reason}")


def find_adb(serial: str | None) -> Adb:
    """The device that adb lists, the one of that serial where there are several; InputError."""
    ran = called("adb", ["adb", "devices"], PATIENCE_S)
    if ran.status:
        raise InputError(f"adb devices: {ran.reason}")
    lines = [line.split() for line in ran.output.splitlines()[1:] if line.strip()]
    states = {words[0]: " ".join(words[1:]) for words in lines if not words[0].startswith("*")}
    if not states:
        raise InputError(
            "adb lists no device: connect one, with USB debugging on in its developer options"
        )
    if serial is None and len(states) > 1:
        raise InputError(f"adb lists several devices, {', '.join(states)}: --serial names one")
    serial = serial or next(iter(states))
    if serial not in states:
        raise InputError(f"adb lists no device {serial}; it lists {', '.join(states)}")
    state = states[serial]
    remedies = {
        "unauthorized": "unlock it and allow USB debugging for this computer",
        "offline": "unplug it and connect it again",
    }
    if state != "device":
        remedy = remedies.get(state.partition(" ")[0], "see `adb devices`")
        raise InputError(f"{serial}: adb says that it is {state}: {remedy}")
    return Adb(serial=serial)
