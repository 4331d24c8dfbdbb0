"""The names of a model's classes, from a file with one per line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rt3d_tvm.arguments import as_path
from rt3d_tvm.data.preprocessing import checked_labels
from rt3d_tvm.errors import InputError


def read_labels(path: str | Path) -> list[str]:
    """Read one label a line; a byte order mark and blank lines at the end are none.

    InputError for what is no text in UTF-8, for a file without a label, and for a blank line before
    the last label: whether it stands for a class cannot be told. A name that stands twice stays,
    as published lists have some (`repeated`).
    """
    path = as_path(path, "path")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text in UTF-8; one label a line is expected") from error
    # splitlines() would part a label at a form feed or a Unicode separator.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")
    labels = [line.strip() for line in lines]
    if labels == [""]:
        raise InputError(f"{path}: holds no label; one per line is expected")
    if "" in labels:
        raise InputError(
            f"{path}: line {labels.index('') + 1} is blank; one label a line is expected, without "
            "a gap before the last"
        )
    try:
        return list(checked_labels(labels))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def repeated(labels: Sequence[str]) -> dict[str, list[int]]:
    """The labels that stand for several classes, with those."""
    classes = defaultdict(list)
    for index, label in enumerate(labels):
        classes[label].append(index)
    return {label: found for label, found in classes.items() if len(found) > 1}
