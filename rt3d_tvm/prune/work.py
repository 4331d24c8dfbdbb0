"""The folder of one training: its settings, its last checkpoint, its metrics and their plots.

settings.json            the settings it was begun with; others are refused by name
checkpoint.safetensors   after the last whole epoch
metrics.jsonl            one JSON object per line, one line per epoch
training.png             loss, accuracy and density over the epochs
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rt3d_tvm.arguments import as_path
from rt3d_tvm.console import write_json
from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.files.folders import check_empty, check_makeable, half_written, make_folder
from rt3d_tvm.files.staging import remove_abandoned
from rt3d_tvm.files.whole_file import whole_file
from rt3d_tvm.prune.training_state import shown

_SETTINGS = "settings.json"
_CHECKPOINT = "checkpoint.safetensors"
_METRICS = "metrics.jsonl"
_PLOT = "training.png"
_FILES = (_SETTINGS, _CHECKPOINT, _METRICS, _PLOT)
# Bytes of settings that are read.
_LARGEST = 4 << 20
# How many settings that differ are named.
_MOST_NAMED = 10


class WorkFolder:
    """The folder of a training that begins or goes on; nothing is written before `begin`.

    InputError for a folder that holds anything but a training, or whose training has other
    settings: each that differs is named.
    """

    def __init__(self, root: Path, settings: Mapping[str, object]) -> None:
        self.root = as_path(root, "root")
        self._settings = json.loads(json.dumps(dict(settings)))
        path = self.root / _SETTINGS
        if path.exists():
            _refuse_other(path, self._settings)
        else:
            check_empty(self.root, _FILES)
        check_makeable(self.root)

    def begin(self) -> None:
        """Make the folder, if it is not there. InputError where that cannot be."""
        make_folder(self.root)
        remove_abandoned(self.root)
        for path in half_written(self.root, _FILES):
            path.unlink(missing_ok=True)
        if not (self.root / _SETTINGS).exists():
            write_json(self.root / _SETTINGS, self._settings)

    @property
    def checkpoint(self) -> Path:
        return self.root / _CHECKPOINT

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.checkpoint.exists()

    def write_metrics(self, rows: Sequence[Mapping[str, object]]) -> None:
        """All epochs so far: the checkpoint holds them too, so that both tell the same story."""
        with whole_file(self.root / _METRICS) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def plot(self, rows: Sequence[Mapping[str, object]]) -> None:
        from rt3d_tvm.prune.plot import plot_training

        plot_training(self.root / _PLOT, rows)


def remove_work(root: Path) -> None:
    """Remove the files of a training, and their folder unless there is something else in it."""
    remove_abandoned(root)
    for name in _FILES:
        (Path(root) / name).unlink(missing_ok=True)
    if not any(Path(root).iterdir()):
        Path(root).rmdir()


def _refuse_other(path: Path, here: Mapping[str, object]) -> None:
    there = _read_settings(path)
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if names:
        differing = "; ".join(
            f"{shown(name)} {shown(there.get(name))} there, {shown(here.get(name))} here"
            for name in names[:_MOST_NAMED]
        )
        raise InputError(
            f"{path.parent}: holds a training of other settings ({differing}); name another "
            "folder, or the same settings to go on"
        )


def _read_settings(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"{path}: is no file; settings of a training are expected")
    if (size := path.stat().st_size) > _LARGEST:
        raise InputError(f"{path}: {size} bytes are no settings; at most {_LARGEST} are read")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as settings: {words_of(error)}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: holds a {type(settings).__name__}, settings are a JSON object")
    return settings
