"""Which videos were skipped, known to every process that reads the data set."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
import weakref
from pathlib import Path


class SkipLog:
    """A folder with one small file for each video skipped.

    Workers share it however they were started, and creating a file is atomic between processes:
    each video is reported once. The folder goes when the log that made it does.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rt3d-skipped-"))
        weakref.finalize(self, _remove, self._folder, os.getpid())

    def add(self, index: int, reason: str) -> None:
        """Note a video by its index; warn if nobody has before."""
        try:
            handle = os.open(self._folder / str(index), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(reason)
        warnings.warn(f"skipped: {reason}", stacklevel=2)

    def read(self) -> dict[int, str]:
        """Index and reason of every video skipped so far, by index."""
        files = sorted(self._folder.iterdir(), key=lambda path: int(path.name))
        return {
            int(path.name): path.read_text(encoding="utf-8", errors="surrogateescape")
            for path in files
        }


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a worker that was forked off
        shutil.rmtree(folder, ignore_errors=True)
