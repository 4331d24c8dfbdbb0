"""Machines that a static program is brought to and run on: by ssh, or by an emulator here.

No TVM and no RPC: files go there, a command runs, what it prints comes back. `adb` has the third
kind, an Android device.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rt3d_tvm.devices.commands import Away, Lines, Ran, called, check_copied, known, watched
from rt3d_tvm.devices.defaults import UPLOAD_BYTES_PER_S
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.staging import scratch_folder

# For what is no program of the user's: a phone that has gone to sleep takes seconds.
PATIENCE_S = 30.0
# A folder there that a process left which was killed here is removed when it is a day old.
REMOVE_OLD = (
    "find {parent} -maxdepth 1 -name 'rt3d-*' -mmin +1440 -exec rm -rf {{}} \\; 2>/dev/null"
)


class Folder(Protocol):
    """An empty folder on a machine, until `close`; InputError for whatever goes wrong there."""

    def put(self, files: Sequence[Path], timeout_s: float) -> None:
        """Bring files there, under their names."""

    def get(self, name: str, to: Path, timeout_s: float) -> None:
        """Fetch a file."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove files."""

    def run(
        self,
        program: str,
        arguments: Sequence[str],
        silence_s: float,
        said: Callable[[str], None],
    ) -> Ran:
        """Run a file in it, to its end, with `watched`'s arguments."""

    def start(self, program: str, arguments: Sequence[str]) -> Lines:
        """Run a file in it, whose lines are read as they come."""

    def close(self) -> None:
        """Remove the folder and all that is in it."""


class Machine(Protocol):
    """Where files can be brought to and a program run; InputError for whatever goes wrong."""

    @property
    def name(self) -> str:
        """As tables call it."""

    def check(self) -> None:
        """`Away` where it is not there now."""

    def describe(self) -> dict[str, str]:
        """What it is: its model, system, processor, as far as it tells."""

    def open(self) -> Folder:
        """A folder there."""


def run_files(
    machine: Machine,
    files: Sequence[Path],
    arguments: Sequence[str],
    *,
    deadline_s: float,
    silence_s: float,
    said: Callable[[str], None],
) -> Ran:
    """Bring files into an empty folder there and run the first of them; then remove them.

    deadline_s: to bring them, beside a second for each MB. silence_s: the longest that the program
    may print nothing; ``said`` is given each line of it.
    """
    folder = machine.open()
    try:
        nbytes = sum(path.stat().st_size for path in files)
        folder.put(files, deadline_s + nbytes / UPLOAD_BYTES_PER_S)
        return folder.run(files[0].name, arguments, silence_s, said)
    finally:
        with contextlib.suppress(InputError):  # what went wrong before says more
            folder.close()


def title(machine: Machine) -> str:
    """A machine's maker, model and processor, as far as it tells; else its name."""
    about = machine.describe()
    words = [about[key] for key in ("manufacturer", "model", "soc") if key in about]
    return " ".join(words) or machine.name


@dataclass(frozen=True, kw_only=True)
class Here:
    """This machine, or an emulator on it: ``command`` with {} where the program goes."""

    command: str

    @property
    def name(self) -> str:
        """As tables call it."""
        return self.command.replace("{}", "").strip() or "this machine"

    def check(self) -> None:
        """It is always there."""

    def describe(self) -> dict[str, str]:
        """The command: an emulator's times are no device's."""
        return {"runner": self.command}

    def open(self) -> _FolderHere:
        """A folder of this machine's. InputError for a command that can be none."""
        if "{}" not in self.command:
            raise InputError(f"--runner {self.command!r}: {{}} is missing, where the program goes")
        try:
            return _FolderHere(self.name, shlex.split(self.command))
        except ValueError as error:
            raise InputError(f"--runner {self.command!r}: {error}") from error


class _FolderHere:
    """A folder of this machine's: what is brought there is a link, but for what is run."""

    def __init__(self, name: str, words: Sequence[str]) -> None:
        self._name, self._words = name, words
        self._held = contextlib.ExitStack()
        self.path = self._held.enter_context(scratch_folder("rt3d-run-"))

    def put(self, files: Sequence[Path], timeout_s: float) -> None:
        for file in files:
            (self.path / file.name).symlink_to(file.absolute())

    def get(self, name: str, to: Path, timeout_s: float) -> None:
        try:
            shutil.copyfile(self.path / name, to)
        except OSError as error:
            raise InputError(f"{self._name}: {name} cannot be fetched: {error.strerror}") from error

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def run(
        self,
        program: str,
        arguments: Sequence[str],
        silence_s: float,
        said: Callable[[str], None],
    ) -> Ran:
        return watched(self._name, self._command(program, arguments), silence_s, said)

    def start(self, program: str, arguments: Sequence[str]) -> Lines:
        return Lines(self._command(program, arguments))

    def close(self) -> None:
        self._held.close()

    def _command(self, program: str, arguments: Sequence[str]) -> list[str]:
        path = self.path / program
        if path.is_symlink():  # a program finds what lies beside it
            linked = path.resolve()
            path.unlink()
            shutil.copyfile(linked, path)
            path.chmod(0o755)
        return [*(word.replace("{}", str(path)) for word in self._words), *arguments]


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """A machine that `ssh` reaches without a question."""

    host: str

    @property
    def name(self) -> str:
        """As tables call it."""
        return self.host

    def check(self) -> None:
        """`Away` where ssh does not reach it."""
        self.shell("true")

    def describe(self) -> dict[str, str]:
        """Its model, where the device tree names one, and its system."""
        script = (
            "cat /proc/device-tree/model 2>/dev/null | tr -d '\\0'; echo; uname -srm; "
            "sed -n 's/^PRETTY_NAME=//p' /etc/os-release 2>/dev/null | tr -d '\"'"
        )
        model, kernel, system = (*self.shell(script).output.split("\n"), "", "")[:3]
        return known({"model": model, "kernel": kernel, "system": system})

    def open(self) -> _FolderOverSsh:
        """A temporary folder there."""
        script = f"{REMOVE_OLD.format(parent='/tmp')}; mktemp -d /tmp/rt3d-XXXXXXXX"
        made = self.shell(script)
        folder = made.output.strip()
        if made.status or not re.fullmatch(r"/tmp/rt3d-\w+", folder):
            raise InputError(f"{self.host}: no folder can be made: {made.reason}")
        return _FolderOverSsh(self, folder)

    def shell(self, script: str, timeout_s: float = PATIENCE_S) -> Ran:
        """A script there; `Away` where ssh itself fails."""
        return self.reached(called(self.host, self.command(script), timeout_s))

    def reached(self, ran: Ran) -> Ran:
        """What ssh ran; `Away` where it failed itself."""
        if ran.status == 255:
            raise Away(f"{self.host}: cannot be reached: {ran.reason}")
        return ran

    def command(self, script: str) -> list[str]:
        """This machine's command that runs a script there."""
        return ["ssh", "-o", "BatchMode=yes", self.host, script]


@dataclass(frozen=True)
class _FolderOverSsh:
    machine: Ssh
    path: str

    def put(self, files: Sequence[Path], timeout_s: float) -> None:
        copied = self._scp([*map(str, files), f"{self.machine.host}:{self.path}/"], timeout_s)
        check_copied(copied, self.machine.name, files)

    def get(self, name: str, to: Path, timeout_s: float) -> None:
        copied = self._scp([f"{self.machine.host}:{self.path}/{name}", str(to)], timeout_s)
        if copied.status:
            raise InputError(f"{self.machine.name}: {name} cannot be fetched: {copied.reason}")

    def remove(self, names: Sequence[str]) -> None:
        self.machine.shell(f"cd {self.path} && rm -f {' '.join(names)}")

    def run(
        self,
        program: str,
        arguments: Sequence[str],
        silence_s: float,
        said: Callable[[str], None],
    ) -> Ran:
        command = self.machine.command(script_of(self.path, program, arguments))
        return self.machine.reached(watched(self.machine.name, command, silence_s, said))

    def start(self, program: str, arguments: Sequence[str]) -> Lines:
        return Lines(self.machine.command(script_of(self.path, program, arguments)))

    def close(self) -> None:
        self.machine.shell(f"rm -rf {self.path}")

    def _scp(self, names: Sequence[str], timeout_s: float) -> Ran:
        options = ("-q", "-o", "BatchMode=yes")
        return called(self.machine.host, ["scp", *options, *names], timeout_s)


def script_of(folder: str, program: str, arguments: Sequence[str]) -> str:
    """What a shell runs to run a program in its folder."""
    words = " ".join(map(shlex.quote, arguments))
    return f"cd {folder} && chmod 755 {program} && ./{program} {words}".rstrip()
