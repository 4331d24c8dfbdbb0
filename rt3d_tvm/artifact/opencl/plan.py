"""The plan of a compiled model: its kernels' source, its buffers, its launches in order. No TVM."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

from rt3d_tvm.errors import InputError

# Beside the artifact's other files: the OpenCL C of all kernels, and the rest of the plan.
SOURCE, PLAN = "kernels.cl", "plan.json"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One kernel on a grid of work-groups; all static.

    kernel    its name in the source
    call      which call of the model it is a part of, counted from 0; ``function`` is what it calls
    buffers   its arguments: indices into the plan's buffers, and ``sizes`` the bytes of the tensors
              in them, which may be less than the buffer
    groups, items  work-groups and work-items a group along x, y, z
    """

    kernel: str
    call: int
    function: str
    buffers: tuple[int, ...]
    sizes: tuple[int, ...]
    groups: tuple[int, int, int]
    items: tuple[int, int, int]

    @property
    def group_items(self) -> int:
        """Work-items a group."""
        return prod(self.items)


@dataclass(frozen=True, kw_only=True)
class Texture:
    """A buffer of the plan that is a texture (image2d_array_t): texels of four values of ``dtype``.

    shape: its columns, rows and layers
    """

    buffer: int
    shape: tuple[int, int, int]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A model as a list of launches on buffers that stay on the device.

    buffers  bytes of each: first those of the inputs, then those of the weights, in the order of
             the manifest, then what is between the kernels; ``outputs`` are the last results
    half     whether a kernel computes in float16
    textures those of the buffers between kernels that are textures
    """

    source: str
    buffers: tuple[int, ...]
    inputs: int
    weights: int
    outputs: tuple[int, ...]
    launches: tuple[Launch, ...]
    half: bool
    textures: tuple[Texture, ...] = ()

    def to_text(self) -> str:
        """All of it as one JSON, for a kernel that is measured alone."""
        return json.dumps(self.fields())

    @classmethod
    def from_text(cls, text: str) -> Plan:
        """What ``to_text`` gave; ValueError, TypeError or KeyError for anything else."""
        return cls.of(json.loads(text))

    @classmethod
    def of(cls, fields: dict) -> Plan:
        """From its fields, whose tuples may be lists."""
        launches, textures = (
            tuple(kind(**{key: _tuples(value) for key, value in part.items()}) for part in parts)
            for kind, parts in (
                (Launch, fields.pop("launches")),
                (Texture, fields.pop("textures", ())),
            )
        )
        rest = {key: _tuples(value) for key, value in fields.items()}
        return cls(launches=launches, textures=textures, **rest)

    def fields(self) -> dict:
        """What ``of`` takes; without textures as it was before there were any."""
        found = asdict(self)
        if not self.textures:
            del found["textures"]
        return found

    def write(self, folder: Path) -> None:
        """Write the two files into a folder."""
        fields = self.fields()
        (folder / SOURCE).write_text(fields.pop("source"), encoding="utf-8")
        (folder / PLAN).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """What ``write`` wrote; InputError for a folder without it, or with another."""
        for name in (SOURCE, PLAN):
            if not (folder / name).is_file():
                raise InputError(f"{folder}: no {name} in it; it was not compiled for OpenCL")
        try:
            fields = json.loads((folder / PLAN).read_text(encoding="utf-8"))
            return cls.of({**fields, "source": (folder / SOURCE).read_text(encoding="utf-8")})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{folder / PLAN}: damaged: {error}") from error


def _tuples(value):
    return tuple(value) if isinstance(value, list) else value
