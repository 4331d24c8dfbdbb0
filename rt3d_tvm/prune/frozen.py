"""Stages of a model that a training leaves as they are: their weights and their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from rt3d_tvm.errors import InputError

# All but the head: what transfer learning keeps of a model that was trained on more videos.
BACKBONE = "backbone"
_SHOWN = 12


@dataclass(frozen=True, eq=False)
class Frozen:
    """The layers that stay as they are, by name."""

    layers: dict[str, nn.Module]

    def stay(self) -> None:
        """After ``model.train()``: without it a BatchNorm would go on taking statistics."""
        for layer in self.layers.values():
            layer.eval()


def freeze_(model: nn.Module, names: Sequence[str], *, head: str) -> Frozen:
    """Keep a training from changing the stages that are named, ``backbone`` all but the ``head``.

    InputError for a name that is no stage, and where nothing is left to train.
    """
    stages = dict(model.named_modules())
    for name in names:
        if name != BACKBONE and (name not in stages or not name):
            children = [child for child, _ in model.named_children()][:_SHOWN]
            raise InputError(
                f"no stage named {name!r} to freeze; {BACKBONE} (all but the head, {head}) is "
                f"accepted, and stages such as {', '.join(children)}"
            )

    def is_frozen(place: str) -> bool:
        below = [name for name in names if f"{place}.".startswith(f"{name}.")]
        return bool(below) or (BACKBONE in names and not f"{place}.".startswith(f"{head}."))

    for place, parameter in model.named_parameters():
        if is_frozen(place):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"--freeze {' '.join(names)} leaves nothing to train; leave the head out")
    return Frozen(
        {
            place: stage
            for place, stage in stages.items()
            if place and is_frozen(place) and _has_values(stage)
        }
    )


def _has_values(stage: nn.Module) -> bool:
    """Whether it has weights or statistics of its own; a Dropout has none, and goes on."""
    own = [*stage.parameters(recurse=False), *stage.buffers(recurse=False)]
    return bool(own)
