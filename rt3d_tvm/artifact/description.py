"""What a manifest says of the model's clips and classes, and clips made as it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rt3d_tvm.artifact.batches import sizes_of
from rt3d_tvm.artifact.tensors import the_one
from rt3d_tvm.data.preprocessing import Description, Preprocessing, changed, from_fields
from rt3d_tvm.errors import InputError


def description_of(manifest: dict, folder: Path) -> Description:
    """What the artifact in ``folder`` says of its clips and classes; InputError if that is damaged.

    An artifact of a file by others says nothing.
    """
    found = from_fields(manifest, f"{folder}: manifest.json")
    try:
        found.check(manifest["inputs"][0]["shape"], manifest["outputs"][0]["shape"])
    except InputError as error:
        raise InputError(f"{folder}: manifest.json: {error}") from error
    return found


def prepared(
    manifest: dict, folder: Path, *, instead: Preprocessing | None = None, **given: object
) -> Preprocessing:
    """How clips for the artifact are made: as it says, or ``instead``, with what is ``given``.

    InputError where neither says it, and for what does not fit the artifact's input.
    """
    _, frames, size = clip_shape(manifest, folder)
    stored = instead or description_of(manifest, folder).preprocessing
    try:
        used = changed(stored, frames=frames, size=size, **given)
        Description(preprocessing=used).check(manifest["inputs"][0]["shape"], [])
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    return used


def batches(clips: np.ndarray, manifest: dict) -> list[np.ndarray]:
    """The clips, as many at once as the model takes; the last ones are filled up with the last.

    Of several batches each time the largest that is not above what is left, or else the smallest.
    """
    sizes = sorted(sizes_of(manifest) or [the_one(manifest, "inputs", "a video")["shape"][0]])
    parts, begin = [], 0
    while begin < len(clips):
        left = len(clips) - begin
        size = next((each for each in reversed(sizes) if each <= left), sizes[0])
        part = clips[begin : begin + size]
        parts.append(np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)]))
        begin += size
    return parts


def clip_shape(manifest: dict, folder: Path) -> tuple[int, int, int]:
    """Clips in a batch, frames of a clip, height and width of a frame; InputError for others."""
    shape = the_one(manifest, "inputs", "a video")["shape"]
    if len(shape) != 5 or shape[1] != 3 or shape[3] != shape[4]:
        raise InputError(
            f"{folder}: its input is {shape}; a model of RGB clips is expected: [clips, 3, frames, "
            "size, size]"
        )
    return shape[0], shape[2], shape[3]
