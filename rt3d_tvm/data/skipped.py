"""Which videos were skipped, known to every process that reads the data set."""

from __future__ import annotations

import contextlib
import os
import warnings
import weakref

from rt3d_tvm.files.staging import scratch_folder


class SkipLog:
    """A folder with one small file for each video skipped.

    Workers share it however they were started, and creating a file is atomic between processes:
    each video is reported once. The folder goes when the log that made it does, or after a kill
    when the next one is made.
    """

    def __init__(self) -> None:
        held = contextlib.ExitStack()
        self._folder = held.enter_context(scratch_folder("rt3d-skipped-")) / "videos"
        self._folder.mkdir()
        weakref.finalize(self, _remove, held, os.getpid())

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


def _remove(held: contextlib.ExitStack, owner: int) -> None:
    if os.getpid() == owner:  # not in a worker that was forked off
        held.close()
