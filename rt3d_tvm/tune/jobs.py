"""What a device is given to measure: a kernel's library, its weights and random inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rt3d_tvm.compile.choices.layer import Choice, Layer, Variant
from rt3d_tvm.tune.check import random_inputs
from rt3d_tvm.tune.measuring import Job
from rt3d_tvm.tune.search import TaskSearch


def kernel_job(
    layer: Layer, name: str, variant: Variant, library: Path, *, id: object = None
) -> Job:
    """A library with its layer's own weights and offsets, packed for the variant, and drawn inputs.

    name: of the layer, which tells its arguments from those of others.
    """
    conv, values = layer.conv, random_inputs(layer)
    weights = f"{name}/{variant.g_m}/{variant.channels}/{variant.chunk}"
    places = f"{weights}/{'texture' if variant.texture else 'buffer'}"
    owners = {"blocks": weights, "offsets": places, "pointers": weights}
    arguments: dict[str, np.ndarray | tuple[tuple[int, ...], str]] = {
        f"{name}/x": conv.x.packed(values["x"])
    }
    for constant, array in zip(conv.constants, layer.packed(variant), strict=True):
        # What has a number for each filter depends on how they are padded alone.
        owner = owners.get(constant, f"{name}/{len(array)}")
        arguments[f"{owner}/{constant}"] = array
    if conv.residual:
        arguments[f"{name}/residual"] = conv.residual.packed(values["residual"])
    arguments[f"{name}/y"] = (conv.y.shape(conv.out), conv.argument_types.get("y", conv.dtype))
    return Job(id, library, arguments)


def search_job(search: TaskSearch, choice: Choice, library: Path) -> Job:
    """The job of one choice of a search."""
    return kernel_job(search.task.layer, search.task.name, choice.variant, library, id=choice)
