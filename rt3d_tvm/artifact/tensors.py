"""What goes into a model and comes out of it: one array, or several by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from rt3d_tvm.errors import InputError

# One array where the model has one input or output, else arrays by the names in its manifest.
Tensors = np.ndarray | dict[str, np.ndarray]


class Runs(Protocol):
    """A loaded artifact, wherever it is."""

    @property
    def manifest(self) -> dict:
        """Its manifest."""

    def run(self, x: Tensors) -> Tensors:
        """Its output for one input."""


def given(manifest: dict, x: np.ndarray | Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The inputs in the order that the model of ``manifest`` takes them.

    ``x``: one array for a model of one input, or arrays by name. InputError for another number of
    them, another name, shape or type.
    """
    entries = manifest["inputs"]
    names = [entry["name"] for entry in entries]
    if not isinstance(x, Mapping):
        if len(entries) > 1:
            raise InputError(
                f"one array for a model of {len(entries)} inputs; a dict of {', '.join(names)} is "
                "accepted"
            )
        x = {names[0]: x}
    if unknown := [*(name for name in x if name not in names)]:
        raise InputError(f"input {unknown[0]!r} is none of the model's: {', '.join(names)}")
    if lacking := [name for name in names if name not in x]:
        raise InputError(f"input {lacking[0]!r} is missing; the model takes {', '.join(names)}")
    for entry in entries:
        check_input(entry, x[entry["name"]])
    return [x[name] for name in names]


def check_input(entry: dict, x: np.ndarray) -> None:
    """InputError where ``x`` has another shape or type than an input by its manifest's entry."""
    if list(x.shape) != entry["shape"] or str(x.dtype) != entry["dtype"]:
        raise InputError(
            f"input {entry['name']!r} is {x.dtype} of shape {tuple(x.shape)}; the model "
            f"takes {entry['dtype']} of shape {tuple(entry['shape'])}"
        )


def named(manifest: dict, results: Sequence[np.ndarray]) -> Tensors:
    """The results as `run` returns them: one array, or arrays by name where there are several."""
    if len(results) == 1:
        return results[0]
    names = [entry["name"] for entry in manifest["outputs"]]
    return dict(zip(names, results, strict=True))


def arrays(tensors: Tensors) -> list[np.ndarray]:
    """All arrays of what `run` takes or returns."""
    return list(tensors.values()) if isinstance(tensors, Mapping) else [tensors]


def noise(manifest: dict, rng: np.random.Generator) -> Tensors:
    """Standard normal inputs of a model."""
    drawn = [rng.standard_normal(entry["shape"], dtype="float32") for entry in manifest["inputs"]]
    names = [entry["name"] for entry in manifest["inputs"]]
    return drawn[0] if len(drawn) == 1 else dict(zip(names, drawn, strict=True))


def the_one(manifest: dict, kind: str, what: str) -> dict:
    """The entry of a model's only input or output (``kind``: inputs, outputs).

    InputError that says what is asked of it, for a model of several.
    """
    entries = manifest[kind]
    if len(entries) != 1:
        names = ", ".join(entry["name"] for entry in entries)
        raise InputError(
            f"{what} takes a model of one {kind.removesuffix('s')}; this one has {len(entries)} "
            f"({names}): run it in Python by their names, as docs/artifact.md shows"
        )
    return entries[0]
