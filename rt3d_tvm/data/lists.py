"""What a data set's own split files or folders say: which videos, of which classes, in which split.

No video is opened.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rt3d_tvm.arguments import as_path
from rt3d_tvm.data.motion import CLASSES, SETTINGS_FILE, SPLITS, read_settings, video_path
from rt3d_tvm.data.own_videos import OwnVideos, has_class_folders, is_list, read_csv, read_folders
from rt3d_tvm.errors import InputError, words_of

# The names under which the archives of the data sets unpack; the root itself does as well.
_UCF_LISTS, _UCF_VIDEOS = ("ucfTrainTestlist",), ("UCF-101", "UCF101", "videos")
_HMDB_LISTS = ("testTrainMulti_7030_splits", "test_train_splits", "splits")
_HMDB_VIDEOS = ("hmdb51_org", "hmdb51", "videos")
_KINETICS_LISTS = ("annotations",)
# Kinetics keeps its test labels to itself for a year or for good: accuracy is of the validation.
_KINETICS_SPLITS = {"train": ("train",), "test": ("val", "validate", "validation")}
_KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
_HMDB_CODES = {"0": None, "1": "train", "2": "test"}
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class VideoList:
    """The videos of one split, each with the index of its class, in the order of the lists.

    ``missing`` are those that the lists name and that are not there.
    """

    kind: str
    classes: tuple[str, ...]
    videos: tuple[tuple[Path, int], ...]
    missing: tuple[Path, ...]


def read_list(root: Path, *, kind: str = "auto", split: str, fold: int = 1) -> VideoList:
    """The videos of a split by the official files of ucf101, hmdb51, kinetics, or a generated set.

    Or of one's own: ``folder`` has a folder for each class, ``csv`` a file with path,label
    (`rt3d_tvm.data.own_videos`). ``kind`` auto goes by the files that are there. InputError for an
    unknown kind, split or fold, a folder that is none of these, a class that no list knows, and a
    class folder without videos.
    """
    root = as_path(root, "root")
    if not root.is_dir() and not (root.is_file() and kind in ("auto", "csv")):
        what = "not a folder" if root.exists() else "no such folder"
        raise InputError(f"{root}: {what}; the folder of a data set is expected")
    if kind not in ("auto", *_READERS):
        raise InputError(f"kind {kind}: auto, {', '.join(_READERS)} are accepted")
    if kind == "auto":
        kind = _kind_of(root)
    if split not in SPLITS:
        raise InputError(f"split {split}: {' or '.join(SPLITS)} is accepted")
    if fold not in (1, 2, 3):
        raise InputError(f"fold {fold}: 1, 2 or 3 is accepted")
    found = _READERS[kind](root, split, fold)
    if not found.videos and not found.missing:
        raise InputError(f"{root}: its {kind} lists name no video for split {split}")
    return found


def _kind_of(root: Path) -> str:
    if root.is_file():
        return "csv"
    if (root / SETTINGS_FILE).exists():
        return "motion"
    if _in_one_of(root, _UCF_LISTS, "classInd.txt"):
        return "ucf101"
    if _in_one_of(root, _HMDB_LISTS, "*_test_split*.txt"):
        return "hmdb51"
    if files := _in_one_of(root, _KINETICS_LISTS, "*.csv"):
        return "csv" if is_list(files[0]) else "kinetics"
    if has_class_folders(root):
        return "folder"
    raise InputError(
        f"{root}: no videos in class folders (folder) and no split file here; a CSV with "
        "path,label (csv), classInd.txt and trainlist01.txt (ucf101), CLASS_test_split1.txt "
        f"(hmdb51), a CSV of youtube_id (kinetics) or {SETTINGS_FILE} (motion) is expected"
    )


def _in_one_of(root: Path, names: Iterable[str], pattern: str) -> list[Path]:
    """The files of a pattern in the first of root and its folders ``names`` that has any."""
    for folder in (root, *(root / name for name in names)):
        files = sorted(folder.glob(pattern))
        if files:
            return files
    return []


def _lists(root: Path, names: Sequence[str], pattern: str) -> list[Path]:
    files = _in_one_of(root, names, pattern)
    if not files:
        raise InputError(f"{root}: no split file {pattern} there or in {' or '.join(names)}")
    return files


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, stripped, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {words_of(error)}") from error
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line]


def _files(folder: Path) -> list[str]:
    """Names of the files in a folder; none where it does not exist. Opens no file."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not entry.name.startswith(".")]


def _in_class_folders(
    root: Path, names: Sequence[str], classes: Sequence[str], wanted: Iterable[tuple[str, str]]
) -> tuple[list[tuple[Path, int]], list[Path]]:
    """(video, class) pairs that are there, and paths that are not, from (class, name) pairs."""
    base = next((root / name for name in names if (root / name).is_dir()), root)
    there = {}
    for name in classes:
        there[name] = set(_files(base / name))
        if not there[name]:
            what = "is empty" if (base / name).is_dir() else "is missing"
            raise InputError(f"{base / name}: the class folder {what}; its videos are expected")
    index = {name: i for i, name in enumerate(classes)}
    videos, missing = [], []
    for label, name in wanted:
        if name in there[label]:
            videos.append((base / label / name, index[label]))
        else:
            missing.append(base / label / name)
    return videos, missing


def _read_ucf101(root: Path, split: str, fold: int) -> VideoList:
    """classInd.txt: "1 ApplyEyeMakeup"; trainlist01.txt: "ApplyEyeMakeup/v_x.avi 1"."""
    (index_file,) = _lists(root, _UCF_LISTS, "classInd.txt")
    numbers = {}
    for number, line in _lines(index_file):
        parts = line.split()
        if len(parts) != 2 or not parts[0].isdecimal():
            raise InputError(f"{index_file}, line {number}: {line!r}; '1 Class' is expected")
        numbers[parts[1]] = int(parts[0])
    classes = tuple(sorted(numbers, key=numbers.__getitem__))
    (split_file,) = _lists(root, _UCF_LISTS, f"{split}list{fold:02d}.txt")
    wanted = []
    for number, line in _lines(split_file):
        name, *label = line.split()
        folder, _, video = name.partition("/")
        if folder not in numbers:
            raise InputError(
                f"{split_file}, line {number}: unknown class {folder!r}; {index_file.name} has "
                f"{len(classes)}: {_first(classes)}"
            )
        if label and label != [str(numbers[folder])]:
            raise InputError(
                f"{split_file}, line {number}: class {' '.join(label)} for {folder}, which "
                f"{index_file.name} gives {numbers[folder]}"
            )
        wanted.append((folder, video))
    videos, missing = _in_class_folders(root, _UCF_VIDEOS, classes, wanted)
    return VideoList(kind="ucf101", classes=classes, videos=tuple(videos), missing=tuple(missing))


def _read_hmdb51(root: Path, split: str, fold: int) -> VideoList:
    """CLASS_test_split1.txt: "video.avi 1", where 1 is for training, 2 for testing, 0 for none."""
    ending = f"_test_split{fold}.txt"
    split_files = _lists(root, _HMDB_LISTS, f"*{ending}")
    classes = tuple(path.name.removesuffix(ending) for path in split_files)
    wanted = []
    for label, path in zip(classes, split_files, strict=True):
        for number, line in _lines(path):
            name, _, code = line.rpartition(" ")
            if code not in _HMDB_CODES or not name:
                raise InputError(f"{path}, line {number}: {line!r}; 'video.avi 0|1|2' is expected")
            if _HMDB_CODES[code] == split:
                wanted.append((label, name.strip()))
    videos, missing = _in_class_folders(root, _HMDB_VIDEOS, classes, wanted)
    return VideoList(kind="hmdb51", classes=classes, videos=tuple(videos), missing=tuple(missing))


def _read_kinetics(root: Path, split: str, fold: int) -> VideoList:
    """CSV: label,youtube_id,time_start,time_end,split; video: ID_000012_000022.mp4.

    The videos lie in a folder named like the split, in folders of their class or not. The classes
    are those of all rows of all CSV files, so that a split that lacks one keeps the indices.
    """
    words = _KINETICS_SPLITS[split]
    names, rows = set(), []
    for path in _lists(root, _KINETICS_LISTS, "*.csv"):
        for row in _csv_rows(path):
            names.add(row["label"])
            if row["split"] in words:
                rows.append((path, row))
    classes = tuple(sorted(names))
    index = {name: i for i, name in enumerate(classes)}
    folders = [root / word for word in words if (root / word).is_dir()] or [root]
    there = _stems(folders, index)
    videos, missing = [], []
    for path, row in rows:
        try:
            span = f"{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
        except ValueError as error:
            raise InputError(f"{path}: {row['youtube_id']}: times in seconds expected") from error
        stem = f"{row['youtube_id']}_{span}"
        if stem in there:
            videos.append((there[stem], index[row["label"]]))
        else:
            missing.append(folders[0] / row["label"] / f"{stem}.mp4")
    return VideoList(kind="kinetics", classes=classes, videos=tuple(videos), missing=tuple(missing))


def _csv_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {words_of(error)}") from error
    for number, row in enumerate(rows, 2):
        empty = [column for column in _KINETICS_COLUMNS if not row.get(column)]
        if empty:
            raise InputError(
                f"{path}, line {number}: no {empty[0]}; the columns {','.join(_KINETICS_COLUMNS)} "
                "are expected"
            )
    return rows


def _stems(folders: Iterable[Path], classes: Container[str]) -> dict[str, Path]:
    """Files by their names without ending, in these folders and in the class folders in them."""
    found = {}
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    names = _files(Path(entry.path))
                    if not names and entry.name in classes:
                        raise InputError(
                            f"{entry.path}: the class folder is empty; its videos are expected"
                        )
                    found.update({_stem(name): Path(entry.path, name) for name in names})
                else:
                    found[_stem(entry.name)] = Path(entry.path)
    return found


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _read_motion(root: Path, split: str, fold: int) -> VideoList:
    """motion.json: how many videos of each class there are."""
    settings = read_settings(root)
    wanted = [
        (video_path(root, split, action, index), label)
        for label, action in enumerate(CLASSES)
        for index in range(settings.videos(split))
    ]
    there = {name: set(_files(root / split / name)) for name in CLASSES}
    videos = [(path, label) for path, label in wanted if path.name in there[CLASSES[label]]]
    missing = [path for path, label in wanted if path.name not in there[CLASSES[label]]]
    return VideoList(kind="motion", classes=CLASSES, videos=tuple(videos), missing=tuple(missing))


def _read_folder(root: Path, split: str, fold: int) -> VideoList:
    return _own("folder", read_folders(root, split, fold))


def _read_csv(root: Path, split: str, fold: int) -> VideoList:
    return _own("csv", read_csv(root, split, fold))


def _own(kind: str, own: OwnVideos) -> VideoList:
    return VideoList(kind=kind, classes=own.classes, videos=own.videos, missing=own.missing)


_READERS: dict[str, Callable[[Path, str, int], VideoList]] = {
    "ucf101": _read_ucf101,
    "hmdb51": _read_hmdb51,
    "kinetics": _read_kinetics,
    "motion": _read_motion,
    "folder": _read_folder,
    "csv": _read_csv,
}


def refuse_missing(found: VideoList, root: Path) -> None:
    """InputError if a list names videos that are not there: how many, and the first of them."""
    if found.missing:
        total = len(found.missing) + len(found.videos)
        raise InputError(
            f"{root}: {len(found.missing)} of {total} videos that the {found.kind} lists name are "
            f"missing: {_first([str(path) for path in found.missing])}"
        )


def _first(names: Sequence[str]) -> str:
    more = "" if len(names) <= _SHOWN else f" and {len(names) - _SHOWN} more"
    return ", ".join(names[:_SHOWN]) + more
