"""Calibration clips: cut from a folder of videos, or taken from a .npy file as they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.arguments import as_path
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from rt3d_tvm.data.preprocessing import Preprocessing

# Of a request for more the memory would be full of clips; ranges settle with some dozens.
MOST_CLIPS = 10_000


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Clips as the model takes them, float32 (N, ...), and what a user should know of them."""

    clips: np.ndarray
    notes: tuple[str, ...] = ()


def check_count(count: int) -> None:
    """InputError for a number of clips out of range."""
    if not 1 <= count <= MOST_CLIPS:
        raise InputError(f"count {count}: 1 to {MOST_CLIPS} clips are accepted")


def load_array(path: str | Path) -> np.ndarray:
    """The array in a .npy file, mapped; InputError for one that is damaged or holds objects."""
    path = as_path(path, "path")
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{path}: not a .npy file of numbers, or a damaged one; numpy.save writes what is "
            "accepted"
        ) from error


def check_clips(clips: np.ndarray, shape: list[int], where: object) -> None:
    """InputError for clips that are no float32 of the model's shape, which is one of a batch."""
    found = np.asarray(clips)
    if found.ndim != len(shape) or list(found.shape[1:]) != shape[1:] or not len(found):
        sides = ", ".join(map(str, shape[1:]))
        raise InputError(
            f"{where}: clips of shape {list(found.shape)}; the model takes [N, {sides}], N at "
            "least 1"
        )
    if found.dtype != np.float32:
        raise InputError(f"{where}: clips of type {found.dtype}; float32 is accepted")


def some_clips(clips: np.ndarray, shape: list[int], count: int, where: object) -> Calibration:
    """At most ``count`` of the clips, evenly spread; InputError for others, and for NaN in them."""
    check_clips(clips, shape, where)
    chosen = np.unique(np.linspace(0, len(clips) - 1, min(count, len(clips))).round().astype(int))
    for index in chosen.tolist():
        if not np.isfinite(clips[index]).all():
            raise InputError(
                f"{where}: clip {index} has values that are NaN or infinite; finite ones are "
                "accepted"
            )
    few = len(chosen) < count
    notes = (f"{where} has {len(chosen)} clips, fewer than the {count} asked for",) if few else ()
    return Calibration(clips=np.ascontiguousarray(clips[chosen]), notes=notes)


def clips_of_videos(folder: Path, used: Preprocessing, count: int) -> Calibration:
    """``count`` clips of the videos in a folder and below it, evenly spread over them.

    Where there are fewer videos than that, each gives several. A file that is no video is passed
    over, and the notes say so. InputError where no clip can be cut.
    """
    from rt3d_tvm.data.clips import read_clips

    files = _files(folder)
    each = -(-count // len(files))
    found: list[np.ndarray] = []
    notes: list[str] = []
    # The spread ones first, and then the rest, for what cannot be read.
    spread = dict.fromkeys(np.linspace(0, len(files) - 1, count).round().astype(int).tolist())
    for index in (*spread, *(i for i in range(len(files)) if i not in spread)):
        if len(found) >= count:
            break
        try:
            read = read_clips(files[index], **asdict(replace(used, clips=each, crops=1)))
        except InputError as error:
            notes.append(f"passed over: {error}")
            continue
        found += list(read.array)
        notes += read.notes
    if not found:
        raise InputError(f"{folder}: no clip can be cut from its {len(files)} files: {notes[0]}")
    if len(found) < count:
        notes.append(f"{folder} gives {len(found)} clips, fewer than the {count} asked for")
    return Calibration(clips=np.stack(found[:count]), notes=tuple(notes))


def _files(folder: Path) -> list[Path]:
    """Those in a folder and below it that are not hidden."""
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise InputError(f"{folder}: holds no file; a folder of videos is accepted")
    return found
