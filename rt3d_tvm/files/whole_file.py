"""Output files that appear whole or not at all, wherever a path leads."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rt3d_tvm.arguments import as_path
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.staging import scratch_folder, staging

# How a system says that nothing more can be written to a disk, or to files of this process.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# How many links may lead from one to the next, as Linux has it.
_MOST_LINKS = 40
_NOT_WRITTEN = "cannot be written"


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield the path of an empty file, whose content becomes that of ``path`` when the block ends.

    If the block raises, nothing is left and an older file at ``path`` stays as it was; so it does
    when the process is killed. Links stay links: their target gets the content. An older file keeps
    its mode. What is no file (a device, a pipe, a socket, /dev/fd/3) is written to at the end.
    InputError for a path that cannot be written to, and for a disk that is full.
    """
    goal = _goal(path)
    _check(path, goal)
    place = scratch_folder("rt3d-output-") if goal.in_place else staging(goal.path.parent)
    with contextlib.ExitStack() as stack:
        with refused(path):
            folder = stack.enter_context(place)
            # Its name ends as the other's does: some writers go by that.
            temporary = folder / f"new{goal.path.suffix}"
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o666))
        mode = stat.S_IMODE(temporary.stat().st_mode)
        try:
            yield temporary
        except OSError as error:
            # Others are of what the block reads, or of the programs that it calls.
            if error.errno in FULL or str(error.filename).startswith(str(folder)):
                raise InputError(f"{path}: {_NOT_WRITTEN}: {error.strerror or error}") from error
            raise
        with refused(path):
            if goal.in_place:
                _write_to(goal, temporary)
            else:
                _replace(goal, temporary, mode)


def check_writable(path: str | Path) -> None:
    """InputError for a path that `whole_file` cannot write to: ask before work that takes long."""
    goal = _goal(path)
    _check(path, goal)
    if not goal.in_place:
        with refused(path), staging(goal.path.parent):
            pass


def is_standard_output(path: str | Path) -> bool:
    """Whether a path leads to this process's standard output, as /dev/stdout does."""
    return _goal(path).descriptor == 1


def may_be_file(path: str | Path) -> bool:
    """Whether a path leads to a file or to nothing yet, and not to a device, a pipe or the like."""
    return not _goal(path).in_place


@contextlib.contextmanager
def refused(path: str | Path, what: str = _NOT_WRITTEN) -> Iterator[None]:
    """Raise what the system refuses in the block as an InputError about ``path``.

    A pipe that nobody reads any more is no refusal: BrokenPipeError stays what it is.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {what}: {error.strerror or error}") from error


def is_mount_point(path: Path) -> bool:
    """Whether something is mounted there, a single file too: it can be written to, not replaced."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return path.is_mount()
    wanted = os.fsencode(os.path.realpath(path))
    octal = re.compile(rb"\\([0-7]{3})")
    points = (octal.sub(lambda code: bytes([int(code[1], 8)]), line.split()[4]) for line in lines)
    return wanted in points


def check_renamable(path: str | Path, found: os.stat_result, parent: os.stat_result) -> None:
    """InputError for what nobody but its owner may replace, in a folder such as /tmp."""
    if parent.st_mode & stat.S_ISVTX and os.getuid() not in (0, found.st_uid, parent.st_uid):
        raise InputError(f"{path}: {_NOT_WRITTEN}: it is another user's")


def sync_file(path: Path) -> None:
    """Let the content of a file be on disk when this returns."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Let a loss of power take no name of a file whose content is on disk."""
    if not os.access(folder, os.R_OK):  # it may be written to and not be listed
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _Goal:
    """Where a path leads, links followed; ``found`` is what is there, None if nothing.

    descriptor: of this process, where the path names one. in_place: it has no name of its own, or
    one that has to stay what it is.
    """

    path: Path
    descriptor: int | None
    found: os.stat_result | None
    in_place: bool


def _goal(path: str | Path) -> _Goal:
    with refused(path):
        at, descriptor, systems = _followed(as_path(path, "path"))
        try:
            found = os.fstat(descriptor) if descriptor is not None else at.stat()
        except (FileNotFoundError, NotADirectoryError):
            found = None
        in_place = systems
        if found is not None and not systems and not stat.S_ISDIR(found.st_mode):
            in_place = not stat.S_ISREG(found.st_mode) or is_mount_point(at)
    return _Goal(at, descriptor, found, in_place)


def _followed(path: Path) -> tuple[Path, int | None, bool]:
    """A path whose last part is no link, the descriptor it names, and if it is a link of /proc.

    Those open what a process has open: what they say of it may be no path at all.
    """
    process = re.escape(os.path.realpath("/proc/self"))
    own = re.compile(rf"{process}(/task/[0-9]+)?/fd|/dev/fd")
    at = path
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(at.parent)
        at = Path(folder) / at.name
        if own.fullmatch(folder) and at.name.isdecimal():
            return at, int(at.name), True
        if not at.is_symlink():
            return at, None, False
        if folder.startswith("/proc/"):
            return at, None, True
        at = Path(folder) / at.readlink()
    raise InputError(f"{path}: its links lead in a circle")


def _check(path: str | Path, goal: _Goal) -> None:
    """What can be known without writing anything."""
    found, folder = goal.found, goal.path.parent
    if goal.descriptor is not None:
        with refused(path):
            flags = fcntl.fcntl(goal.descriptor, fcntl.F_GETFL)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            raise InputError(f"{path}: {_NOT_WRITTEN}: it is open for reading only")
        return
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path}: is a folder; the name of a file to write is expected")
    with refused(path):
        if not folder.is_dir():
            raise InputError(f"{path}: there is no folder {folder}; make it first")
    if found is None:
        return
    if not os.access(goal.path, os.W_OK):
        raise InputError(f"{path}: {_NOT_WRITTEN}: it is not this user's to write to")
    if not goal.in_place:
        check_renamable(path, found, folder.stat())
        # Opening a file changes nothing, and meets what modes do not tell.
        with refused(path):
            os.close(os.open(goal.path, os.O_WRONLY))


def _replace(goal: _Goal, temporary: Path, mode: int) -> None:
    sync_file(temporary)
    if goal.found is not None:
        mode = stat.S_IMODE(goal.found.st_mode)
        # Only root may give a file to another user.
        with contextlib.suppress(OSError):
            os.chown(temporary, goal.found.st_uid, goal.found.st_gid)
    temporary.chmod(mode)
    temporary.replace(goal.path)
    sync_folder(goal.path.parent)


def _write_to(goal: _Goal, temporary: Path) -> None:
    """Copy into what is there."""
    with temporary.open("rb") as content:
        if goal.descriptor is not None:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()  # what was printed before comes before
            descriptor = os.dup(goal.descriptor)
        elif goal.found is not None and stat.S_ISSOCK(goal.found.st_mode):
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(str(goal.path))
                link.sendfile(content)
            return
        else:
            regular = goal.found is not None and stat.S_ISREG(goal.found.st_mode)
            flags = os.O_WRONLY | os.O_NOCTTY | (os.O_TRUNC if regular else 0)
            descriptor = os.open(goal.path, flags)
        with os.fdopen(descriptor, "wb") as out:
            shutil.copyfileobj(content, out)
