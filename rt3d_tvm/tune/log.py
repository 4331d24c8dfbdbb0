"""The log of a search: JSON lines that are on disk before anybody is told of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import sync_folder, whole_file

# Seconds: how long to wait for a disk that is full, and between two attempts.
PATIENCE_S, PAUSE_S = 300.0, 2.0


class TrialLog:
    """An append-only file of JSON objects, one per line; one process writes it at a time.

    Opening reads what is there. A last line that is torn, and lines that are no JSON objects, are
    moved to a file beside it (``torn``), never fatal; ``warn`` is told. InputError for a file that
    cannot be opened, and for one that another process has open.
    """

    def __init__(
        self,
        path: Path,
        *,
        warn: Callable[[str], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.path, self._warn, self._patience_s = Path(path), warn, patience_s
        self.torn = self.path.with_name(f"{self.path.stem}.torn{self.path.suffix}")
        try:
            self._file = self.path.open("a+b", buffering=0)
            _lock(self._file.fileno(), self.path)
            self.rows = self._recovered()
            # Without this a loss of power may take the name of a file whose content is on disk.
            sync_folder(self.path.parent)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error

    def append(self, row: dict) -> None:
        """Write one row; when this returns it is on disk.

        A full disk is waited for: what is half written is cut off again. InputError if it stays
        full.
        """
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        until, told = time.monotonic() + self._patience_s, False
        while True:
            size = self._file.seek(0, os.SEEK_END)
            try:
                self._write(line)
            except OSError as error:
                os.ftruncate(self._file.fileno(), size)
                reason = error.strerror or str(error)
                if time.monotonic() >= until:
                    raise InputError(
                        f"{self.path}: cannot be written: {reason}; what it holds is whole, the "
                        "same command goes on"
                    ) from error
                if not told:
                    self._warn(f"{self.path}: {reason}; trying again")
                    told = True
                time.sleep(PAUSE_S)
            else:
                self.rows.append(row)
                return

    def close(self) -> None:
        """Let another process have the file."""
        self._file.close()

    def _write(self, line: bytes) -> None:
        written = 0
        while written < len(line):
            written += self._file.write(line[written:])
        os.fsync(self._file.fileno())

    def _recovered(self) -> list[dict]:
        """The rows that are whole; what is not goes to the side file before it goes from here."""
        data = self.path.read_bytes()
        rows, good, bad = [], [], []
        for line in data.splitlines(keepends=True):
            row = _row(line)
            if row is None:
                bad.append(line)
            else:
                rows.append(row)
                good.append(line)
        if bad:
            with self.torn.open("ab") as side:
                side.write(b"".join(line.rstrip(b"\n") + b"\n" for line in bad))
                side.flush()
                os.fsync(side.fileno())
            self._replace(b"".join(good))
            self._warn(
                f"{self.path}: {len(bad)} of {len(good) + len(bad)} lines were torn or no JSON; "
                f"they are in {self.torn} now"
            )
        return rows

    def _replace(self, data: bytes) -> None:
        """Other content under the same name, at no moment less than what was whole."""
        with whole_file(self.path) as temporary:
            temporary.write_bytes(data)
        self._file.close()
        self._file = self.path.open("a+b", buffering=0)
        _lock(self._file.fileno(), self.path)


def _row(line: bytes) -> dict | None:
    """The object in a line; None where the line is torn or garbage."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _lock(descriptor: int, path: Path) -> None:
    """Keep other processes from writing the same file; the lock ends with this process."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"{path}: another process is writing it") from error
