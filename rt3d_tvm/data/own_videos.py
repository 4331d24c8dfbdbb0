"""Videos of one's own: folders named like their classes, or a CSV file. No video is opened."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rt3d_tvm.errors import InputError, words_of

# What counts as a video in a class folder, beside which notes and thumbnails lie.
ENDINGS = (
    *("mp4", "m4v", "mov", "avi", "mkv", "webm", "mpg", "mpeg", "mts", "m2ts", "ts"),
    *("wmv", "flv", "ogv", "3gp", "gif"),
)
# Where nothing says what is to test on, it is one part of so many, another one in each fold.
PARTS = 5
_SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "validation")}
_COLUMNS = ("path", "label")


@dataclass(frozen=True)
class OwnVideos:
    """The classes, and of one split the videos with the index of their class, and what is missing.

    ``missing`` are files that a CSV file names and that are not there.
    """

    classes: tuple[str, ...]
    videos: tuple[tuple[Path, int], ...]
    missing: tuple[Path, ...] = ()


def has_class_folders(root: Path) -> bool:
    """Whether there are videos in folders of ``root``, or in folders of those."""
    return bool(_class_folders(root)) or bool(_split_folders(root))


def read_folders(root: Path, split: str, fold: int) -> OwnVideos:
    """``root/CLASS/video.mp4``, or ``root/train/CLASS/video.mp4`` and ``root/test/...``.

    Without train and test, every fifth video of a class is to test on, in an order that its name
    gives: another fifth in each fold. InputError where there are no class folders, for a class
    that there is nothing to train on, and for one of a single video.
    """
    folders = _split_folders(root)
    if not folders:
        found = _class_folders(root)
        _at_least_two_classes(root, found)
        chosen = {name: _part(root / name, found[name], split, fold) for name in found}
        return _of_folders(tuple(found), {name: (root / name, chosen[name]) for name in found})
    for wanted in ("train", "test"):
        if wanted not in folders:
            beside = " or ".join(f"{name}/" for name in _SPLITS[wanted])
            raise InputError(f"{root}: {beside} is missing beside {next(iter(folders.values()))}")
    videos = {which: _class_folders(folders[which]) for which in folders}
    classes = tuple(sorted({*videos["train"], *videos["test"]}))
    _at_least_two_classes(root, classes)
    if untrained := [name for name in classes if name not in videos["train"]]:
        raise InputError(f"{folders['train']}: no videos of class {untrained[0]!r} to train on")
    own = videos[split]
    return _of_folders(classes, {name: (folders[split] / name, own[name]) for name in own})


def is_list(path: Path) -> bool:
    """Whether a CSV file has the columns of one's own videos."""
    return set(_COLUMNS) <= set(_rows(path)[0])


def read_csv(root: Path, split: str, fold: int) -> OwnVideos:
    """A CSV file with the columns path and label, or a folder with one, or with train and test.csv.

    A path is relative to the file. A column split says train or test; without it videos are parted
    as by `read_folders`. InputError for another file, for a video that is named twice, and for a
    class that there is nothing to train on.
    """
    files = _csv_files(root)
    rows: list[tuple[Path, str, str | None]] = []
    lines: dict[Path, str] = {}
    for path, which in files:
        for number, row in enumerate(_checked_rows(path), 2):
            place, label = f"{path}, line {number}", row["label"].strip()
            video = path.parent / row["path"].strip()
            if video in lines:
                raise InputError(f"{place}: {row['path']} is in {lines[video]} as well")
            lines[video] = place
            rows.append((video, label, which or _split_of(row, place)))
    classes = _in_order({label for _, label, _ in rows})
    _at_least_two_classes(root, classes)
    wanted = []
    for name in classes:
        own = [(video, which) for video, label, which in rows if label == name]
        wanted += [(video, name) for video in _of_split(root, name, own, split, fold)]
    index = {name: i for i, name in enumerate(classes)}
    return OwnVideos(
        classes=classes,
        videos=tuple((video, index[name]) for video, name in wanted if video.is_file()),
        missing=tuple(video for video, _ in wanted if not video.is_file()),
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """Folders of the splits that have class folders in them; none where a class is so called."""
    found = {}
    for split, names in _SPLITS.items():
        for name in names:
            if _class_folders(root / name):
                found[split] = root / name
                break
    return found


def _class_folders(root: Path) -> dict[str, list[str]]:
    """The folders in one that have videos, by name, with the names of their videos."""
    if not root.is_dir():
        return {}
    with os.scandir(root) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    videos = {name: _videos(root / name) for name in names}
    return {name: found for name, found in videos.items() if found}


def _videos(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    return sorted(name for name in names if name.rpartition(".")[2].lower() in ENDINGS)


def _at_least_two_classes(root: Path, classes: Iterable[str]) -> None:
    if len(names := list(classes)) < 2:
        endings = ", ".join(ENDINGS[:5])
        raise InputError(
            f"{root}: {len(names)} classes with videos; two at least are expected, as folders "
            f"CLASS/video ({endings}, ...) or as labels of a CSV file path,label"
        )


def _part(of: Path, names: Sequence[str], split: str, fold: int) -> list[str]:
    """Those to train or to test on, of a class that nobody has parted.

    The order goes by a hash of the names, so that it is the same on every machine, and has nothing
    to do with how the videos were made: cameras number theirs.
    """
    if len(names) < 2:
        raise InputError(
            f"{of}: one video of this class; two at least are needed, to train and to test on"
        )
    parts = min(PARTS, len(names))
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    tested = {name for rank, name in enumerate(ranked) if rank % parts == (fold - 1) % parts}
    return [name for name in names if (name in tested) == (split == "test")]


def _of_folders(
    classes: tuple[str, ...], found: Mapping[str, tuple[Path, Sequence[str]]]
) -> OwnVideos:
    index = {name: i for i, name in enumerate(classes)}
    videos = [
        (folder / video, index[name]) for name, (folder, names) in found.items() for video in names
    ]
    return OwnVideos(classes=classes, videos=tuple(videos))


def _csv_files(root: Path) -> list[tuple[Path, str | None]]:
    """The lists, each with the split that its name says, or None."""
    if root.is_file():
        return [(root, None)]
    named = [
        (root / f"{name}.csv", split)
        for split, names in _SPLITS.items()
        for name in names
        if (root / f"{name}.csv").is_file()
    ]
    if named:
        if [split for _, split in named] != ["train", "test"]:
            there = ", ".join(path.name for path, _ in named)
            raise InputError(f"{root}: has {there}; train.csv and test.csv are expected, one each")
        return list(named)
    files = sorted(root.glob("*.csv"))
    if len(files) != 1:
        raise InputError(
            f"{root}: {len(files)} CSV files; one with the columns path,label is expected, or "
            "train.csv and test.csv"
        )
    return [(files[0], None)]


def _rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The names of the columns, and the rows."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            return [name.strip() for name in reader.fieldnames or ()], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {words_of(error)}") from error


def _checked_rows(path: Path) -> list[dict[str, str]]:
    columns, rows = _rows(path)
    if missing := [name for name in _COLUMNS if name not in columns]:
        raise InputError(
            f"{path}: no column {missing[0]}; a first line path,label is expected, or "
            "path,label,split"
        )
    checked = []
    for number, row in enumerate(rows, 2):
        values = {(name or "").strip(): value or "" for name, value in row.items() if name}
        if empty := [name for name in _COLUMNS if not values[name].strip()]:
            raise InputError(f"{path}, line {number}: no {empty[0]}")
        checked.append(values)
    return checked


def _split_of(row: Mapping[str, str], place: str) -> str | None:
    word = row.get("split", "").strip().lower()
    found = [split for split, names in _SPLITS.items() if word in names]
    if word and not found:
        raise InputError(f"{place}: split {word!r}; train or test is accepted, or no such column")
    return found[0] if found else None


def _of_split(
    root: Path, name: str, own: Sequence[tuple[Path, str | None]], split: str, fold: int
) -> list[Path]:
    """The videos of a class that are of a split: as the list says, or else parted."""
    said = {which for _, which in own}
    if said == {None}:
        chosen = set(_part(root / name, [str(video) for video, _ in own], split, fold))
        return [video for video, _ in own if str(video) in chosen]
    if None in said:
        raise InputError(f"{root}: some videos of class {name!r} have a split and others have none")
    if "train" not in said:
        raise InputError(f"{root}: no videos of class {name!r} to train on")
    return [video for video, which in own if which == split]


def _in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """By name; numbers by their size, so that class 10 comes after class 2."""
    names = sorted(labels)
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    return tuple(names)
