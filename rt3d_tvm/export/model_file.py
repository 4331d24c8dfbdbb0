"""An exported model's file and, above 2 GB, the one beside it that holds its weights."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import may_be_file, sync_file, whole_file

_LOCATION = "location"


@contextlib.contextmanager
def whole_model(path: Path) -> Iterator[Path]:
    """Yield a path to save a model at; its weights may go beside it, to a file ``<name>.data``.

    When the block ends both get their places as of `whole_file`. The weights get a name that is
    free, and the model says which: the ones of an older model are its own until it is replaced, and
    go then. A file of something else is kept. InputError as of `whole_file`, and where the weights
    would be beside a link or a device, where nobody looks for them.
    """
    replaced, moved, done = _weights_of(path), set(), False
    try:
        with whole_file(path) as temporary:
            whole = temporary.parent / "model" / path.name
            whole.parent.mkdir()
            yield whole
            moved = _moved(whole, path)
            whole.replace(temporary)
        done = True
    finally:
        for file in replaced - moved if done else moved:
            file.unlink(missing_ok=True)


def _weights_of(path: Path) -> set[Path]:
    """The files of an exported model's weights beside it; none of what is no such model."""
    if not path.is_file() or not may_be_file(path):
        return set()
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError):
        return set()
    found = {entry.value for entry in _locations(model)}
    return {path.parent / name for name in found if _is_name(path, name)}


def _moved(whole: Path, path: Path) -> set[Path]:
    """The file of a model's weights, moved to be beside ``path``; none if the model holds them."""
    data = whole.with_name(_name(whole, 0))
    if not data.exists():
        return set()
    if path.is_symlink() or not may_be_file(path):
        raise InputError(f"{path}: is no file of its own, and weights above 2 GB go beside it")
    names = (_name(path, number) for number in itertools.count())
    name = next(name for name in names if not os.path.lexists(path.parent / name))
    if name != data.name:
        model = onnx.load(whole, load_external_data=False)
        for entry in _locations(model):
            entry.value = name
        onnx.save(model, whole)
    sync_file(data)
    data.rename(path.parent / name)
    return {path.parent / name}


def _locations(model: onnx.ModelProto) -> list[onnx.StringStringEntryProto]:
    """What names the file of each weight that is not in the model."""
    external = [t for t in model.graph.initializer if t.data_location == t.EXTERNAL]
    return [entry for t in external for entry in t.external_data if entry.key == _LOCATION]


def _name(path: Path, number: int) -> str:
    return f"{path.name}.{number}.data" if number else f"{path.name}.data"


def _is_name(path: Path, name: str) -> bool:
    """Whether `_name` gives this one for the weights of ``path``."""
    middle = name.removeprefix(f"{path.name}.").removesuffix(".data")
    return name in (_name(path, 0), _name(path, int(middle) if middle.isdecimal() else 0))
