"""Tuned records: what was found best for a kernel, and for which kernels it holds.

A file of records is JSON lines, one kernel each. Those that the package brings along lie in
shipped/v1, a folder for each class of devices, and are used wherever they fit.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tvm.target import Target

from rt3d_tvm.arguments import as_path
from rt3d_tvm.compile.backends import device_class
from rt3d_tvm.compile.choices.layer import Choice
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import whole_file
from topi_sparse.cpu.kgs_conv3d import KGSConv3d

# The version of a record's fields, and of the folder that the package's own lie in.
FORMAT = 1
SHIPPED = f"compile/choices/shipped/v{FORMAT}"
TUNED = "tuned.jsonl"
# A record holds for a kernel whose share of kept weights differs by no more than this factor: what
# fits the caches then is the same.
SHARE_FACTOR = 1.2


@dataclass(frozen=True, kw_only=True)
class TunedRecord:
    """The best choice for a kernel, and its time beside the default's, both measured in turns.

    workload: what `workload` says of the kernel. share: its stored weights over all. device_class:
    what `device_class` says of the target. model, device: where it was measured.
    """

    workload: dict
    share: float
    device_class: str
    choice: Choice
    default_ms: float
    tuned_ms: float
    model: str
    device: str
    versions: dict[str, str]

    def to_json(self) -> str:
        """One line of a file of records."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps({"format": FORMAT, **fields, "choice": self.choice.to_json()})

    @classmethod
    def from_json(cls, line: str) -> TunedRecord:
        """What ``to_json`` wrote; ValueError for anything else."""
        try:
            fields = json.loads(line)
            if (written := fields.pop("format")) != FORMAT:
                raise ValueError(f"of format {written}; this version reads {FORMAT}")
            return cls(**{**fields, "choice": Choice.from_json(fields["choice"])})
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a tuned record: {error}") from error


@dataclass(frozen=True, kw_only=True)
class RecordSet:
    """Records of one origin; ``source`` is how a report names it."""

    source: str
    records: tuple[TunedRecord, ...]

    def find(self, conv: KGSConv3d, device: str) -> TunedRecord | None:
        """The record for a kernel, of several the one whose share is nearest; None if none holds.

        ``conv`` is the kernel with its default tile.
        """
        wanted, kept = workload(conv), share(conv)
        fitting = [
            record
            for record in self.records
            if record.device_class == device
            and record.workload == wanted
            and max(record.share, kept) <= SHARE_FACTOR * min(record.share, kept)
        ]
        return min(fitting, key=lambda record: abs(record.share - kept), default=None)


def workload(conv: KGSConv3d) -> dict:
    """What a kernel computes, apart from its tile, its halos and which weights are zero.

    ``group`` is the kernel group that it has by default, which follows from the zeros.
    """
    return {
        "kernel": conv.name,
        "data": list(conv.data),
        "filters": conv.filters,
        "window": list(conv.kernel),
        "stride": list(conv.stride),
        "padding": list(conv.padding),
        "dilation": list(conv.dilation),
        "group": str(conv.group),
        "weight_sets": conv.weight_sets,
        "residual": conv.residual is not None,
        "dtype": conv.dtype,
        **conv.other_types,
    }


def share(conv: KGSConv3d) -> float:
    """Stored weights over those of the dense layer."""
    kd, kh, kw = conv.kernel
    return conv.weights / (conv.stored_filters * conv.data[1] * kd * kh * kw)


def read_records(path: Path, source: str) -> RecordSet:
    """The records in a file. InputError for a line that is none, with its number."""
    records = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            records.append(TunedRecord.from_json(line))
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    return RecordSet(source=source, records=tuple(records))


def read_database(folder: Path, target: Target) -> RecordSet:
    """The tuned records in a work directory of `rt3d tune`.

    InputError where there are none, and where they are of another class of devices.
    """
    path = as_path(folder, "folder") / TUNED
    if not path.is_file():
        raise InputError(f"{folder}: no {TUNED} in it; `rt3d tune` writes one when it has finished")
    found = read_records(path, str(folder))
    wanted = device_class(target)
    if others := {record.device_class for record in found.records} - {wanted}:
        raise InputError(f"{path}: tuned for {', '.join(sorted(others))}; the target is {wanted}")
    return found


def shipped_records(target: Target) -> RecordSet:
    """The package's own records for the target's class of devices, of all models; may be empty."""
    folder = files("rt3d_tvm").joinpath(SHIPPED, device_class(target))
    entries = folder.iterdir() if folder.is_dir() else ()
    paths = sorted(Path(str(entry)) for entry in entries if entry.name.endswith(".jsonl"))
    records = [record for path in paths for record in read_records(path, "shipped").records]
    return RecordSet(source="shipped", records=tuple(records))


def write_records(path: Path, records: Iterable[TunedRecord]) -> None:
    """Write a file of records, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(
            "".join(record.to_json() + "\n" for record in records), encoding="utf-8"
        )


def find(sets: Sequence[RecordSet], conv: KGSConv3d, device: str) -> tuple[TunedRecord, str] | None:
    """The record for a kernel, and where it is from: the first set that has one, and its model."""
    for records in sets:
        if (record := records.find(conv, device)) is not None:
            return record, f"{records.source} ({record.model})"
    return None
