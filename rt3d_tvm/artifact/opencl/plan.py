"""The plan of a compiled model: its kernels' source, its buffers, its launches in order. No TVM."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import numpy as np

from rt3d_tvm.artifact.format import BLANK, ArtifactFiles
from rt3d_tvm.errors import InputError, words_of

# Beside the artifact's other files: the OpenCL C of all kernels, and the rest of the plan.
SOURCE, PLAN = "kernels.cl", "plan.json"
_ID_LINE = f"// artifact {BLANK}"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One kernel on a grid of work-groups; all static.

    kernel    its name in the source
    call      which call of the model it is a part of, counted from 0; ``function`` is what it calls
    buffers   its arguments: indices into the plan's buffers, and ``sizes`` the bytes of the tensors
              in them, which may be less than the buffer
    groups, items  work-groups and work-items per group along x, y, z
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

    def texts(self) -> dict[str, str]:
        """The two files' contents by name, with a blank where the artifact's id goes."""
        fields = self.fields()
        return {
            SOURCE: f"{_ID_LINE}\n{fields.pop('source')}",
            PLAN: json.dumps({"id": BLANK, **fields}, indent=1) + "\n",
        }

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan of the artifact in a folder; InputError for one that is damaged, or has none."""
        return cls.of_files(ArtifactFiles.open(folder))

    @classmethod
    def of_files(cls, files: ArtifactFiles) -> Plan:
        """The plan of an artifact, as `read` does."""
        for name in (SOURCE, PLAN):
            if name not in files.manifest["sha256"]:
                raise InputError(f"{files.folder}: no {name} in it; it was not compiled for OpenCL")
        fields = json.loads(files.text(PLAN))
        source = files.text(SOURCE).removeprefix(f"{_ID_LINE}\n")
        try:
            del fields["id"]
            plan = cls.of({**fields, "source": source})
        except (TypeError, KeyError) as error:
            raise InputError(
                f"{files.folder / PLAN}: of another version: {words_of(error)}"
            ) from error
        if (reason := plan.why_not(files.manifest)) is not None:
            raise InputError(f"{files.folder / PLAN}: not of this model: {reason}")
        return plan

    def why_not(self, manifest: dict) -> str | None:
        """Why this is not the plan of the model that a manifest describes; None where it is.

        Every index is of a buffer, every buffer holds what is put into it, every kernel is there.
        """
        sizes = [_nbytes(entry) for entry in (*manifest["inputs"], *manifest["weights"])]
        results = [_nbytes(entry) for entry in manifest["outputs"]]
        if (self.inputs, self.weights) != (len(manifest["inputs"]), len(manifest["weights"])):
            return f"it has {self.inputs} inputs and {self.weights} weights"
        if list(self.buffers[: len(sizes)]) != sizes:
            return "its buffers have other sizes than the inputs and weights of the manifest"
        if len(self.outputs) != len(results):
            return f"the model has {len(results)} results, it gives {len(self.outputs)}"
        used = [*zip(self.outputs, results, strict=True)]
        for launch in self.launches:
            if (reason := self._why_no_launch(launch, len(manifest["calls"]))) is not None:
                return reason
            used += zip(launch.buffers, launch.sizes, strict=True)
        for index, size in used:
            if not 0 <= index < len(self.buffers) or size > self.buffers[index]:
                return f"{size} bytes are used of buffer {index}, which is not that large"
        return None

    def _why_no_launch(self, launch: Launch, calls: int) -> str | None:
        name = launch.kernel
        if f"__kernel void {name}(" not in self.source:
            return f"there is no kernel {name}"
        if len(launch.buffers) != len(launch.sizes):
            return f"{name}: it has {len(launch.buffers)} arguments of {len(launch.sizes)} sizes"
        if min(*launch.groups, *launch.items) < 1:
            return f"{name} has work-groups {launch.groups} of {launch.items}"
        if not 0 <= launch.call < calls:
            return f"{name} is of call {launch.call} of {calls}"
        return None


def _nbytes(entry: dict) -> int:
    """Of a tensor by its entry in the manifest."""
    return prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize


def _tuples(value):
    return tuple(value) if isinstance(value, list) else value
