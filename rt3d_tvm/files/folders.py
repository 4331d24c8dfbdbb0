"""Output folders: those that appear whole, and those that a program makes and goes on with."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rt3d_tvm.errors import InputError
from rt3d_tvm.files.staging import REPLACED, remove_abandoned, staged, staging
from rt3d_tvm.files.whole_file import FULL, check_renamable, is_mount_point, refused, sync_folder

# Of renameat2: paths count from the working directory; what is there stays; both change places.
_AT_FDCWD, _NOREPLACE, _EXCHANGE = -100, 1, 2
# How a system or a file system says that it has no such call, or not with that flag.
_UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


@contextlib.contextmanager
def whole_folder(folder: Path, *, why_kept: Callable[[Path], str | None]) -> Iterator[Path]:
    """Yield an empty folder that becomes ``folder`` when the block ends.

    An older one is replaced if it is empty, or holds files only and ``why_kept`` gives no reason to
    keep it; both are looked at again at the end. The two change places at one moment, so that a
    process that is killed leaves one of them, whole; where the system has no call for that, the
    next process that writes there gives the older one its name back. InputError where the folder
    cannot be replaced or made, and for a disk that is full; what was there is then as it was.
    """
    folder = _real(folder)  # a link to a folder stays one
    check_replaceable(folder, why_kept=why_kept)
    with contextlib.ExitStack() as stack:
        with refused(folder):
            temporary = stack.enter_context(staging(folder.parent))
            made = temporary / "new"
            made.mkdir()
        try:
            yield made
        except OSError as error:
            # Others are of what the block reads, or of the programs that it calls.
            if error.errno in FULL or str(error.filename).startswith(str(temporary)):
                raise InputError(f"{folder}: cannot be written: {error.strerror}") from error
            raise
        with refused(folder):
            sync_folder(made)
            _put(made, folder, why_kept)
            sync_folder(folder.parent)
            # Those whose compilers were still at work when this began.
            remove_abandoned(folder.parent)


def check_replaceable(folder: Path, *, why_kept: Callable[[Path], str | None]) -> None:
    """InputError for what `whole_folder` cannot make or replace: ask before long work."""
    folder = _real(folder)
    parent = folder.parent
    with refused(folder):
        if folder.is_dir():
            _check_folder(folder, why_kept)
        elif os.path.lexists(folder):
            raise InputError(f"{folder} is a file; the name of a folder is expected")
        if not parent.is_dir():
            raise InputError(f"{parent} is no folder; make it first")
    with refused(parent, "cannot be written to"), staging(parent):
        pass


def check_makeable(folder: Path) -> None:
    """InputError for a path that is no folder that can be written in, and cannot become one."""
    folder = _real(folder)
    with refused(folder):
        if os.path.lexists(folder) and not folder.is_dir():
            raise InputError(f"{folder} is a file; the name of a folder is expected")
        there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    what = "cannot be written to" if there == folder else "cannot be made"
    with refused(folder, what), staging(there):
        pass


def check_outside(path: Path, folder: Path) -> None:
    """InputError for a path within a folder that is replaced whole."""
    replaced, inner = _real(folder), _real(path)
    if replaced in (inner, *inner.parents):
        raise InputError(f"{path} lies in {folder}, which is replaced whole; name another place")


def check_empty(folder: Path, files: Sequence[str] = ()) -> None:
    """InputError for a folder that holds anything but what killed processes have left there.

    files: whose names those that version 0.1 has left begin with.
    """
    folder = Path(folder)
    with refused(folder, "cannot be read"):
        if not folder.is_dir():
            if os.path.lexists(folder):
                raise InputError(
                    f"{folder}: is not an empty folder, it is a file; the name of a folder is "
                    "expected"
                )
        elif not set(folder.iterdir()) <= {*staged(folder), *half_written(folder, files)}:
            raise InputError(f"{folder}: is not an empty folder; an empty or new one is expected")


def half_written(folder: Path, files: Sequence[str]) -> list[Path]:
    """What version 0.1 leaves in a folder where it is killed while it writes one of ``files``.

    Not .settings.json.swp or .bak, which editors make.
    """
    kept = "sw[a-p]|bak|old|orig|save|tmp"
    names = re.compile(rf"\.({'|'.join(map(re.escape, files))})\.(?!({kept})$)[a-z0-9_]+")
    return [path for path in Path(folder).iterdir() if names.fullmatch(path.name)]


def make_folder(folder: Path) -> None:
    """Make a folder, with those that it lies in, unless it is there; InputError where it cannot."""
    with refused(folder, "cannot be made"):
        Path(folder).mkdir(parents=True, exist_ok=True)


def _check_folder(folder: Path, why_kept: Callable[[Path], str | None]) -> None:
    """InputError for a folder that is there and cannot be replaced."""
    if folder.samefile(os.curdir):
        raise InputError(
            f"{folder} is the working directory, which cannot be replaced; name another folder"
        )
    if is_mount_point(folder):
        raise InputError(f"{folder} is a mount point; name a folder inside of it")
    if reason := _why_kept(folder, why_kept):
        raise InputError(f"{folder} {reason}")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} cannot be written to: it is not this user's to change")
    check_renamable(folder, folder.stat(), folder.parent.stat())


def _real(folder: Path) -> Path:
    with refused(folder, "cannot be found"):  # from a working directory that is gone, say
        real = Path(os.path.realpath(folder))
        if real.is_symlink():
            raise InputError(f"{folder}: its links lead in a circle")
    return real


def _why_kept(folder: Path, why_kept: Callable[[Path], str | None]) -> str | None:
    """Why a folder is not replaced: nothing but files are removed, and those only by name."""
    for path in folder.iterdir():
        if not stat.S_ISREG(path.lstat().st_mode):
            return f"holds other files: {path.name} is a folder, a link or a device"
    return why_kept(folder) if any(folder.iterdir()) else None


def _put(made: Path, folder: Path, why_kept: Callable[[Path], str | None]) -> None:
    """Give a complete folder its name, unless the older one is to be kept by now."""
    check_replaceable(folder, why_kept=why_kept)
    while not folder.is_dir():
        try:
            _rename(made, folder)
        except FileExistsError:  # by now there is something
            check_replaceable(folder, why_kept=why_kept)
        else:
            return
    made.chmod(stat.S_IMODE(folder.stat().st_mode))
    old = _exchange(made, folder, made.with_name(REPLACED) / folder.name)
    names = [path.name for path in old.iterdir()]
    if reason := _why_kept(old, why_kept):  # something came in between
        _exchange(old, folder, made.with_name("refused"))
        raise InputError(f"{folder} {reason}")
    for name in names:
        (old / name).unlink()
    # What a process writes that is at work in the older folder belongs under its name.
    for path in old.iterdir():
        path.rename(folder / path.name)


def _exchange(made: Path, folder: Path, aside: Path) -> Path:
    """Let two folders change places; where the one called ``folder`` is then: ``aside`` if need be.

    Without a call for it there is a moment without a folder; `staging` knows what was there by the
    place of ``aside``.
    """
    if _renameat2(made, folder, _EXCHANGE):
        return made
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    try:
        made.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    return aside


def _rename(made: Path, folder: Path) -> None:
    """A new name, over nothing: an empty folder may be another process's."""
    if not _renameat2(made, folder, _NOREPLACE):
        made.rename(folder)


def _renameat2(old: Path, new: Path, flag: int) -> bool:
    """Rename with a flag; False where there is no such call. OSError as of `os.rename`."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), ctypes.c_uint(flag)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(old), None, str(new))
