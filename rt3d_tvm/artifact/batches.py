"""An artifact of several batches: which function serves which, and what the manifest says of it.

A manifest describes the first batch as it would a model of that one alone. Where there are more, it
has a list ``batches``: of each, ``batch``, the ``function`` of model.so, and the fields that are
other for it (inputs, outputs, layers, calls, ...). Every function takes all weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rt3d_tvm.errors import InputError

BATCHES = "batches"
# The function of an artifact of one batch.
MAIN = "main"


def parts_of(manifest: dict) -> list[dict]:
    """A manifest for each batch that an artifact serves, with the ``function`` that does."""
    whole = {"function": MAIN, **{key: manifest[key] for key in manifest if key != BATCHES}}
    return [{**whole, **entry} for entry in manifest.get(BATCHES, [{}])]


def sizes_of(manifest: dict) -> list[int]:
    """The batches that an artifact was compiled for; empty where it was for what its file fixes."""
    return [entry["batch"] for entry in manifest.get(BATCHES, ())]


def part_of(manifest: dict, batch: int | None) -> dict:
    """The manifest of that batch, or by default of the first; InputError where it is none."""
    if batch is None:
        return parts_of(manifest)[0]
    sizes = sizes_of(manifest) or [entry["shape"][0] for entry in manifest["inputs"][:1]]
    if batch not in sizes:
        raise InputError(f"batch {batch}: the artifact is of {listed(sizes)}")
    return parts_of(manifest)[sizes.index(batch)]


def part_for(manifest: dict, x: np.ndarray | Mapping[str, np.ndarray]) -> dict:
    """The manifest of the batch that an input has.

    InputError where the artifact serves several and none of that shape. Of an artifact of one, its
    own manifest: whoever checks inputs says what is wrong with them.
    """
    parts = parts_of(manifest)
    if len(parts) == 1:
        return parts[0]
    for part in parts:
        if all(list(given.shape) == entry["shape"] for entry, given in _given(part, x)):
            return part
    pairs = _given(parts[0], x)
    found = " and ".join(f"{entry['name']!r} of shape {tuple(v.shape)}" for entry, v in pairs)
    taken = " and ".join(str(tuple(entry["shape"])) for entry, _ in pairs)
    raise InputError(
        f"input {found}: this model takes batches of {listed(sizes_of(manifest))}; of "
        f"{sizes_of(manifest)[0]} that is {taken}"
    )


def listed(sizes: Sequence[int]) -> str:
    """Numbers as a sentence has them."""
    *rest, last = map(str, sizes)
    return f"{', '.join(rest)} and {last}" if rest else last


def _given(part: dict, x: np.ndarray | Mapping[str, np.ndarray]) -> list[tuple[dict, np.ndarray]]:
    """The inputs of those names, each with its entry of the manifest."""
    entries = part["inputs"]
    if not isinstance(x, Mapping):
        return [(entries[0], x)]
    return [(entry, x[entry["name"]]) for entry in entries if entry["name"] in x]
