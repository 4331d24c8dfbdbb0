"""A compiled model as a list of calls on tensors whose places are known: what needs no VM. No TVM.

kernels.o   the kernels, as one object file, then a seal
calls.json  what is called in which order, and where each tensor lies
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import prod

import numpy as np

from rt3d_tvm.artifact.format import BLANK, KERNELS, ArtifactFiles
from rt3d_tvm.errors import InputError

CALLS = "calls.json"
# Of a manifest: why an artifact has no such list, where it has none.
WHY_NONE = "why_no_calls"
PLACES = ("input", "weight", "storage", "output")


@dataclass(frozen=True, kw_only=True)
class PlacedTensor:
    """A tensor that lies at the start of the input, weight, storage or output of that index."""

    place: str
    index: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Its size."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class Call:
    """A kernel's name, and its arguments: indices of tensors, the results last."""

    function: str
    arguments: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CallList:
    """A model as calls.

    storages  bytes of each; a tensor in one lives until another takes its place
    scratch   bytes that a thread needs at most inside of a kernel
    """

    storages: tuple[int, ...]
    tensors: tuple[PlacedTensor, ...]
    calls: tuple[Call, ...]
    scratch: int

    def text(self) -> str:
        """The file's content, with a blank where the artifact's id goes."""
        fields = asdict(self)
        rows = {name: fields.pop(name) for name in ("tensors", "calls")}
        lines = [f'"{name}": {json.dumps(value)}' for name, value in fields.items()]
        for name, entries in rows.items():
            listed = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
            lines.append(f'"{name}": [\n{listed}\n ]')
        return "{\n " + ",\n ".join([f'"id": "{BLANK}"', *lines]) + "\n}\n"

    @classmethod
    def of_files(cls, files: ArtifactFiles) -> CallList:
        """The list of an artifact; InputError for one that has none, or one that is not its own."""
        for name in (KERNELS, CALLS):
            if name not in files.manifest["sha256"]:
                reason = files.manifest.get(WHY_NONE, f"no {name} in it; compile it again")
                raise InputError(f"{files.folder}: {reason}")
        fields = json.loads(files.text(CALLS))
        try:
            found = cls(
                storages=tuple(fields["storages"]),
                tensors=tuple(
                    PlacedTensor(**{**entry, "shape": tuple(entry["shape"])})
                    for entry in fields["tensors"]
                ),
                calls=tuple(
                    Call(function=entry["function"], arguments=tuple(entry["arguments"]))
                    for entry in fields["calls"]
                ),
                scratch=fields["scratch"],
            )
        except (TypeError, KeyError) as error:
            raise InputError(f"{files.folder / CALLS}: of another version: {error}") from error
        if (reason := found.why_not(files.manifest)) is not None:
            raise InputError(f"{files.folder / CALLS}: not of this model: {reason}")
        return found

    def why_not(self, manifest: dict) -> str | None:
        """Why this is not the list of the model that a manifest describes; None where it is.

        Every tensor lies inside of its place, and every argument is a tensor.
        """
        sizes = {
            "storage": list(self.storages),
            **{
                place: [_nbytes(entry) for entry in manifest[f"{place}s"]]
                for place in ("input", "weight", "output")
            },
        }
        for number, tensor in enumerate(self.tensors):
            room = sizes.get(tensor.place, [])
            if not 0 <= tensor.index < len(room) or tensor.nbytes > room[tensor.index]:
                return f"tensor {number} lies beyond {tensor.place} {tensor.index}"
        for call in self.calls:
            if any(not 0 <= index < len(self.tensors) for index in call.arguments):
                return f"{call.function} takes a tensor that there is not"
        if [call.function for call in self.calls] != [c["function"] for c in manifest["calls"]]:
            return "its calls are not those of the manifest"
        return None


def _nbytes(entry: dict) -> int:
    return prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize
