"""A file mapped into memory, which knows whether anybody has written to it since."""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path

import numpy as np

from rt3d_tvm.errors import InputError


class MappedFile:
    """The bytes of a file as an array, ``data``: read from disk as they are used, never copied.

    Writing to the array changes this process's memory alone. InputError for a file that cannot be
    read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = np.empty(0, "uint8")
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._file).atexit = False
            self._state = self._stat()
            if self._state[0]:  # an empty file cannot be mapped
                mapping = mmap.mmap(self._file, 0, access=mmap.ACCESS_COPY)
                self.data = np.frombuffer(mapping, "uint8")
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error

    def check(self) -> None:
        """InputError where the file was written to since it was mapped; takes a microsecond.

        A file that another has replaced is not: that one stays mapped as it was.
        """
        if self._stat() != self._state:
            raise InputError(f"{self.path}: written to since it was loaded; load it again")

    def _stat(self) -> tuple[int, int]:
        """Its size in bytes, and when it was written to last."""
        stat = os.fstat(self._file)
        return stat.st_size, stat.st_mtime_ns
