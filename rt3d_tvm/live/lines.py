"""Answers as lines that are written as they come: JSON, one object per line, or CSV."""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from rt3d_tvm.classify import Prediction
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import is_standard_output

COLUMNS = ("source", "frame", "time_s", "rank", "class", "label", "probability")


@contextlib.contextmanager
def open_lines(path: Path | None, standard_output: TextIO) -> Iterator[TextIO | None]:
    """A text file whose lines are there once they are written; None without a path.

    ``standard_output`` is what a path to standard output means. InputError for a file that cannot
    be written.
    """
    if path is None:
        yield None
    elif is_standard_output(path):
        yield standard_output
        standard_output.flush()
    else:
        try:
            file = path.open("w", encoding="utf-8", newline="", buffering=1)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from error
        with file:
            yield file


def json_line(file: TextIO | None, value: object) -> None:
    """One object as one line; a dataclass has a field for each of its own."""
    if file is not None:
        fields = value if isinstance(value, dict) else asdict(value)  # type: ignore[call-overload]
        file.write(json.dumps(fields, allow_nan=False, default=str) + "\n")
        file.flush()


def csv_writer(file: TextIO | None) -> Callable[..., None]:
    """A function that writes the answers of a video, or of one of its frames, a line for each."""
    writer = None if file is None else csv.writer(file, lineterminator="\n")
    if writer is not None:
        writer.writerow(COLUMNS)

    def write(
        source: str,
        top: Sequence[Prediction],
        *,
        frame: int | None = None,
        time_s: float | None = None,
    ) -> None:
        if writer is None or file is None:
            return
        for rank, guess in enumerate(top, 1):
            row = (source, frame, time_s, rank, guess.index, guess.label, guess.probability)
            writer.writerow(row)
        file.flush()

    return write
