"""Commands of this machine that speak to others: their end, or their lines as they come."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rt3d_tvm.errors import InputError

_FULL = "No space left on device"
# Seconds that a command may take to end, once it has closed its output.
_END_S = 5.0


class Away(InputError):
    """A machine that is not there now, and may come back."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command's status and what it printed."""

    status: int
    output: str
    error: str

    @property
    def reason(self) -> str:
        """The last that it said."""
        lines = [line.strip() for line in (self.error or self.output).splitlines() if line.strip()]
        return lines[-1] if lines else f"status {self.status}"


def called(who: str, command: Sequence[str], timeout_s: float) -> Ran:
    """A command, to its end; InputError where it is not there or takes too long."""
    _check_there(command)
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
    output = done.stdout.replace("\r\n", "\n")
    return Ran(status=done.returncode, output=output, error=done.stderr)


def watched(who: str, command: Sequence[str], silence_s: float, said: Callable[[str], None]) -> Ran:
    """A command, to its end; ``said`` is given each line that it prints.

    InputError where it is not there, or prints nothing for so many seconds.
    """
    lines: list[str] = []
    with Lines(command) as running:
        try:
            while (line := running.next(silence_s)) is not None:
                lines.append(line)
                said(line)
        except TimeoutError as error:
            raise InputError(
                f"{who}: nothing from the program within {silence_s:.0f} s; --deadline gives it "
                "longer"
            ) from error
        ended = running.end()
    return Ran(
        status=ended.status, output="".join(f"{each}\n" for each in lines), error=ended.error
    )


class Lines:
    """A command whose lines are read as it prints them; it is killed when this is left."""

    def __init__(self, command: Sequence[str]) -> None:
        _check_there(command)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 this object closes it
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._said,
            )
        except OSError as error:
            self._said.close()
            raise InputError(f"{command[0]} cannot be run: {error.strerror}") from error
        assert self._process.stdout is not None
        self._output, self._pending = self._process.stdout, b""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()
        self._said.close()

    def next(self, timeout_s: float) -> str | None:
        """The next line, None where there is none; TimeoutError after so many seconds."""
        until = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._output], [], [], left)[0]:
                raise TimeoutError
            if not (data := os.read(self._output.fileno(), 1 << 16)):
                return None  # a line that is torn is none
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode("utf-8", errors="replace").rstrip("\r")

    def end(self) -> Ran:
        """How the command ended, once it has no more lines; one that does not end is killed."""
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._said.seek(0)
        error = self._said.read().decode("utf-8", errors="replace")
        return Ran(status=status, output="", error=error)


def check_copied(ran: Ran, name: str, files: Sequence[Path], error: type = InputError) -> None:
    """InputError, or ``error``, for files that a command did not copy."""
    if ran.status == 0:
        return
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    if _FULL in ran.error + ran.output:
        raise InputError(f"{name}: no space left there for {megabytes:.1f} MB")
    raise error(f"{name}: {megabytes:.1f} MB cannot be copied there: {ran.reason}")


def known(values: dict[str, str]) -> dict[str, str]:
    """Those of the values that say something."""
    return {name: value.strip() for name, value in values.items() if value.strip()}


def _check_there(command: Sequence[str]) -> None:
    if shutil.which(command[0]) is None:
        raise InputError(f"there is no program {command[0]} here")
