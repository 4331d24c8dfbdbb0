"""Output files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rt3d_tvm.errors import InputError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``path`` that becomes ``path`` when the block ends.

    If the block raises, nothing is left and an older file at ``path`` stays as it was. InputError
    if the folder does not exist or cannot be written to.
    """
    path = Path(path)
    check_writable(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """InputError for a path that a file cannot be written to: ask before work that takes long."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; the name of a file to write is expected")
    if path.exists() and not path.is_file():  # renaming over /dev/null would replace it
        raise InputError(f"{path}: is a device; the name of a file to write is expected")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.absolute().parent}; make it first")
    if not os.access(path.absolute().parent, os.W_OK):
        raise InputError(f"{path}: the folder cannot be written to")


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
