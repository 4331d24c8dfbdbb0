"""Machines that a static program is brought to and run on: by adb, by ssh, by an emulator here.

No TVM and no RPC: files go there, a command runs, what it prints comes back.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol
from uuid import uuid4

from rt3d_tvm.errors import InputError

# Where a shell without root may write and run what is written.
ANDROID_FOLDER = PurePosixPath("/data/local/tmp")
# For what is no program of the user's: a phone that has gone to sleep takes seconds.
_PATIENCE_S = 30.0
_STATUS = "rt3d-status"
# What begins the last lines of what a program says before it ends badly.
_FULL = "No space left on device"
_PROPERTIES = {
    "manufacturer": "ro.product.manufacturer",
    "model": "ro.product.model",
    "soc": "ro.soc.model",
    "board": "ro.board.platform",
    "android": "ro.build.version.release",
}


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command's status and what it printed."""

    status: int
    output: str
    error: str


class Machine(Protocol):
    """Where files can be brought to and a program run; InputError for whatever goes wrong."""

    @property
    def name(self) -> str:
        """As tables call it."""

    def describe(self) -> dict[str, str]:
        """What it is: its model, system, processor, as far as it tells."""

    def run_files(self, files: Sequence[Path], arguments: Sequence[str], timeout_s: float) -> Ran:
        """Bring files into an empty folder there and run the first of them; then remove them."""


@dataclass(frozen=True, kw_only=True)
class Here:
    """This machine, or an emulator on it: ``command`` with {} where the program goes."""

    command: str

    @property
    def name(self) -> str:
        """As tables call it."""
        return self.command.replace("{}", "").strip() or "this machine"

    def describe(self) -> dict[str, str]:
        """The command: an emulator's times are no device's."""
        return {"runner": self.command}

    def run_files(self, files: Sequence[Path], arguments: Sequence[str], timeout_s: float) -> Ran:
        """Run the first file where it is."""
        if "{}" not in self.command:
            raise InputError(f"--runner {self.command!r}: {{}} is missing, where the program goes")
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise InputError(f"--runner {self.command!r}: {error}") from error
        program = str(files[0].absolute())
        command = [word.replace("{}", program) for word in words]
        return _called(self.name, [*command, *arguments], timeout_s)


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """A machine that `ssh` reaches without a question."""

    host: str

    @property
    def name(self) -> str:
        """As tables call it."""
        return self.host

    def describe(self) -> dict[str, str]:
        """Its model, where the device tree names one, and its system."""
        script = (
            "cat /proc/device-tree/model 2>/dev/null | tr -d '\\0'; echo; uname -srm; "
            "sed -n 's/^PRETTY_NAME=//p' /etc/os-release 2>/dev/null | tr -d '\"'"
        )
        model, kernel, system = (*self._shell(script, _PATIENCE_S).output.split("\n"), "", "")[:3]
        return _known({"model": model, "kernel": kernel, "system": system})

    def run_files(self, files: Sequence[Path], arguments: Sequence[str], timeout_s: float) -> Ran:
        """Copy them with scp into a temporary folder, run, remove."""
        made = self._shell("mktemp -d /tmp/rt3d-XXXXXXXX", _PATIENCE_S)
        folder = made.output.strip()
        if made.status or not re.fullmatch(r"/tmp/rt3d-\w+", folder):
            raise InputError(f"{self.host}: no folder can be made: {_reason(made)}")
        try:
            options = ("-q", "-o", "BatchMode=yes")
            to = f"{self.host}:{folder}/"
            copied = _called(self.host, ["scp", *options, *map(str, files), to], timeout_s)
            _check_copied(copied, self.host, files)
            return self._shell(_script(folder, files[0].name, arguments), timeout_s)
        finally:
            self._shell(f"rm -rf {folder}", _PATIENCE_S)

    def _shell(self, script: str, timeout_s: float) -> Ran:
        ran = _called(self.host, ["ssh", "-o", "BatchMode=yes", self.host, script], timeout_s)
        if ran.status == 255:  # ssh's own
            raise InputError(f"{self.host}: cannot be reached: {_reason(ran)}")
        return ran


@dataclass(frozen=True, kw_only=True)
class Adb:
    """An Android device that adb lists, by its serial."""

    serial: str

    @property
    def name(self) -> str:
        """As tables call it."""
        return self.serial

    def describe(self) -> dict[str, str]:
        """Maker, model, SoC and Android version, as its properties have them."""
        script = "; ".join(f"getprop {name}" for name in _PROPERTIES.values())
        values = self._adb("shell", script, timeout_s=_PATIENCE_S).output.split("\n")
        return _known(dict(zip(_PROPERTIES, values, strict=False)))

    def run_files(self, files: Sequence[Path], arguments: Sequence[str], timeout_s: float) -> Ran:
        """Push them, run, remove."""
        folder = f"{ANDROID_FOLDER}/rt3d-{uuid4().hex[:12]}"
        made = self._adb("shell", f"mkdir {folder}", timeout_s=_PATIENCE_S)
        if made.status:
            raise self._gone_or(made, f"no folder can be made: {_reason(made)}")
        try:
            pushed = self._adb("push", *map(str, files), f"{folder}/", timeout_s=timeout_s)
            if pushed.status:
                _check_copied(pushed, self.name, files, self._gone_or)
            script = _script(folder, files[0].name, arguments)
            # Older versions of adb do not return the command's status.
            ran = self._adb("shell", f"{script}; echo; echo {_STATUS} $?", timeout_s=timeout_s)
            output, mark, status = ran.output.rpartition(f"\n{_STATUS} ")
            if not mark or not status.strip().isdecimal():
                raise self._gone_or(ran, f"the program did not end: {_reason(ran)}")
            return Ran(status=int(status), output=output, error=ran.error or output)
        finally:
            self._adb("shell", f"rm -rf {folder}", timeout_s=_PATIENCE_S)

    def _adb(self, *arguments: str, timeout_s: float) -> Ran:
        return _called(self.name, ["adb", "-s", self.serial, *arguments], timeout_s)

    def _gone_or(self, ran: Ran, reason: str) -> InputError:
        """The error for a device that is no longer there, else for ``reason``."""
        if re.search(r"not found|offline|no devices|closed|protocol fault", ran.error):
            return InputError(f"{self.name}: went away: {_reason(ran)}; is its cable in?")
        return InputError(f"{self.name}: {reason}")


def find_adb(serial: str | None) -> Adb:
    """The device that adb lists, the one of that serial where there are several; InputError."""
    ran = _called("adb", ["adb", "devices"], _PATIENCE_S)
    if ran.status:
        raise InputError(f"adb devices: {_reason(ran)}")
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


def _script(folder: str, program: str, arguments: Sequence[str]) -> str:
    words = " ".join(map(shlex.quote, arguments))
    return f"cd {folder} && chmod 755 {program} && ./{program} {words}".rstrip()


def _called(who: str, command: Sequence[str], timeout_s: float) -> Ran:
    """A command of this machine's; InputError where it is not there or takes too long."""
    if shutil.which(command[0]) is None:
        raise InputError(f"there is no program {command[0]} here")
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{who}: no answer within {timeout_s:g} s from {command[0]}; --deadline gives it longer"
        ) from error
    except OSError as error:
        raise InputError(f"{command[0]} cannot be run: {error.strerror}") from error
    return Ran(
        status=done.returncode,
        output=done.stdout.replace("\r\n", "\n"),
        error=done.stderr,
    )


def _check_copied(ran: Ran, name: str, files: Sequence[Path], error=None) -> None:
    """InputError for files that were not copied."""
    if ran.status == 0:
        return
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    if _FULL in ran.error + ran.output:
        raise InputError(f"{name}: no space left there for {megabytes:.1f} MB")
    reason = f"{megabytes:.1f} MB cannot be copied there: {_reason(ran)}"
    raise error(ran, reason) if error is not None else InputError(f"{name}: {reason}")


def _reason(ran: Ran) -> str:
    """The last that a command said."""
    lines = [line.strip() for line in (ran.error or ran.output).splitlines() if line.strip()]
    return lines[-1] if lines else f"status {ran.status}"


def _known(values: dict[str, str]) -> dict[str, str]:
    return {name: value.strip() for name, value in values.items() if value.strip()}
