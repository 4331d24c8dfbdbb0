"""Folders in which files become whole; those of a process that was killed go with the next one's.

A folder holds a file that its process keeps locked. The kernel gives the lock up when the process
ends, whatever ends it, so that a lock that can be had says that nobody is left: a process's number
may since be another's, and means nothing in another container that has the same folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Hidden, and of no file's name: that may be as long as a name can be.
PREFIX = ".rt3d-"
_OWNED = "owned"
# Where `staging` keeps what is about to be replaced, where the two cannot change places at once.
REPLACED = "replaced"
# What tempfile puts behind a prefix.
_RANDOM = "[a-z0-9_]{8}"


@contextlib.contextmanager
def staging(parent: Path, prefix: str = PREFIX) -> Iterator[Path]:
    """A new folder in ``parent``, removed when the block ends, or by the next one after a kill.

    OSError where it cannot be made.
    """
    remove_abandoned(parent, prefix)
    folder, lock = _claimed(parent, prefix)
    try:
        yield folder
    finally:
        # What cannot be removed now is left to the next one.
        with contextlib.suppress(OSError):
            _remove(folder)
        os.close(lock)


def scratch_folder(prefix: str) -> contextlib.AbstractContextManager[Path]:
    """A folder for a process's own use among the system's temporary ones, as `staging` has it."""
    return staging(Path(tempfile.gettempdir()), prefix)


def remove_abandoned(parent: Path, prefix: str = PREFIX) -> None:
    """Remove this user's folders of `staging` in ``parent`` whose process has ended."""
    for folder in staged(parent, prefix):
        # Another process may remove it meanwhile.
        with contextlib.suppress(OSError):
            _remove_if_abandoned(folder)


def staged(parent: Path, prefix: str = PREFIX) -> list[Path]:
    """The folders in ``parent`` that have the names of `staging`'s, of whatever process."""
    pattern = re.compile(re.escape(prefix) + _RANDOM)
    try:
        with os.scandir(parent) as entries:
            names = [entry.name for entry in entries if pattern.fullmatch(entry.name)]
    except OSError:  # no such folder, or one that may be written to and not listed
        return []
    return [Path(parent) / name for name in names]


def _claimed(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder, and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # Before it is locked another process may take it for one that was left behind.
        try:
            lock = os.open(folder / _OWNED, os.O_CREAT | os.O_RDWR, 0o600)
        except FileNotFoundError:
            continue
        except OSError:  # a full disk, say
            folder.rmdir()
            raise
        # Without locks, as on some network file systems, one that is left behind stays.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)


def _remove_if_abandoned(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return
    try:
        lock = os.open(folder / _OWNED, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        folder.rmdir()  # killed before it had one; if anything is in it, it is of something else
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _restore(folder)
        _remove(folder)
    finally:
        os.close(lock)


def _restore(folder: Path) -> None:
    """Give back what had lost its name to a new one that was not there yet at the kill."""
    if (folder / REPLACED).is_dir():
        for path in (folder / REPLACED).iterdir():
            if not os.path.lexists(folder.parent / path.name):
                path.rename(folder.parent / path.name)


def _remove(folder: Path) -> None:
    """The lock's file last: without it nobody would know the rest."""
    for path in folder.iterdir():
        if path.name == _OWNED:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (folder / _OWNED).unlink()
    folder.rmdir()
