"""Folders for a process's own use; those of a process that was killed go with the next one's.

A folder holds a file that its process keeps locked. The kernel gives the lock up when the process
ends, whatever ends it, so that a lock that can be had says that nobody is left: a process's number
may since be another's, and means nothing in another container that has the same /tmp.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_OWNED = "owned"


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder that is removed when the block ends, and by the next of that prefix after a kill."""
    _remove_abandoned(prefix)
    temporary = tempfile.TemporaryDirectory(prefix=prefix)
    folder = Path(temporary.name)
    # Locked before it has its name, which is what others look for, and until the folder is gone.
    with (folder / f"{_OWNED}.new").open("w") as owned, temporary:
        fcntl.flock(owned, fcntl.LOCK_EX)
        Path(owned.name).rename(folder / _OWNED)
        yield folder


def _remove_abandoned(prefix: str) -> None:
    """Remove this user's folders of that prefix whose process has ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        # Without such a file it is of something else; another search may remove it meanwhile.
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.getuid():
                continue
            with (folder / _OWNED).open("rb") as owned:
                fcntl.flock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
