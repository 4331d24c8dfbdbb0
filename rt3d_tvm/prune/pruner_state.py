"""A pruner's checkpoint: its content, and what is checked of it before a pruner goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.checkpoint import read_checkpoint
from rt3d_tvm.prune.schemes import Scheme
from rt3d_tvm.prune.survey import LayerWork, Survey
from rt3d_tvm.prune.training_state import (
    check_finite,
    check_model,
    check_optimizer,
    check_random,
    damaged,
    part,
    shown,
)

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class PrunerState:
    """Where a pruner stands. ``penalties`` are scale and factors of each layer's penalty.

    ``masks`` is None before `Pruner.finalize`, and there are no penalties after it.
    """

    iteration: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, object]
    penalties: Mapping[str, tuple[float, Tensor]]
    masks: Mapping[str, Tensor] | None
    random: Mapping[str, Tensor]
    extra: dict[str, object]

    def tree(self, settings: Mapping[str, object]) -> dict[str, object]:
        """As it is written."""
        return {
            "format": FORMAT,
            "settings": dict(settings),
            "iteration": self.iteration,
            "model": self.model,
            "optimizer": self.optimizer,
            "penalties": {
                name: {"scale": scale, "factors": factors}
                for name, (scale, factors) in self.penalties.items()
            },
            "masks": self.masks,
            "random": self.random,
            "extra": self.extra,
        }


def read_pruner_state(
    path: str | Path,
    settings: Mapping[str, object],
    *,
    survey: Survey,
    schemes: Mapping[str, Scheme],
    optimizer: Optimizer,
    penalised: bool,
) -> PrunerState:
    """Read a checkpoint that fits this model, optimizer and pruning in every part.

    InputError for any other file: all that could go wrong in using it is found here.
    """
    saved = read_checkpoint(path)
    if saved.get("format") != FORMAT:
        raise InputError(f"{path} has format {shown(saved.get('format'))}; {FORMAT} is read here")
    # Versions before never pruned linear layers.
    there = {"linear layers": False, **part(path, saved, "settings", Mapping)}
    for what, here in settings.items():
        if there.get(what) != here:
            value = shown(there.get(what))
            raise InputError(f"{path} was written with {what} {value}, here it is {here}")
    masks = part(path, saved, "masks", (Mapping, type(None)))
    penalties = part(path, saved, "penalties", Mapping)
    iteration = part(path, saved, "iteration", int)
    if iteration < 0:
        raise damaged(path, f"its iteration is {shown(iteration)}")
    layers = {name: survey.layer(name) for name in schemes}
    return PrunerState(
        iteration=iteration,
        model=check_model(path, survey.model, saved.get("model")),
        optimizer=check_optimizer(path, optimizer, saved.get("optimizer")),
        penalties={}
        if masks is not None or not penalised
        else _penalties(path, penalties, survey, layers, schemes),
        masks=None if masks is None else _masks(path, masks, survey, layers),
        random=check_random(path, saved.get("random")),
        extra=dict(part(path, saved, "extra", Mapping)),
    )


def _masks(
    path: str | Path, saved: Mapping, survey: Survey, layers: Mapping[str, LayerWork]
) -> dict[str, Tensor]:
    masks: dict[str, Tensor] = {}
    for layer, mask in _by_layer(path, "masks", saved, survey, layers):
        fits = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == layer.shape
        if not fits:
            raise damaged(path, f"its mask of layer {layer.name!r} is not of that layer's weights")
        # Versions before had one for each layer that shares a tied weight.
        masks[layer.name] = mask & masks[layer.name] if layer.name in masks else mask
    return masks


def _penalties(
    path: str | Path,
    saved: Mapping,
    survey: Survey,
    layers: Mapping[str, LayerWork],
    schemes: Mapping[str, Scheme],
) -> dict[str, tuple[float, Tensor]]:
    penalties: dict[str, tuple[float, Tensor]] = {}
    for layer, entry in _by_layer(path, "penalties", saved, survey, layers):
        scale = part(path, entry, "scale", (int, float))
        scale = check_finite(path, f"scale of layer {layer.name!r}", scale)
        factors = part(path, entry, "factors", Tensor)
        units = schemes[layer.name].sizes(layer.filter_shape, groups=layer.conv_groups)
        if factors.shape != units.shape or not bool(torch.isfinite(factors).all()):
            raise damaged(path, f"its penalty of layer {layer.name!r} is not of that layer's units")
        penalties.setdefault(layer.name, (scale, factors))
    return penalties


def _by_layer(
    path: str | Path, what: str, saved: Mapping, survey: Survey, layers: Mapping[str, LayerWork]
) -> list[tuple[LayerWork, object]]:
    found: list[tuple[LayerWork, object]] = []
    for name, value in saved.items():
        layer = survey.layer(name) if isinstance(name, str) else None
        if layer is None or layer.name not in layers:
            raise damaged(
                path, f"its {what} are of a layer {shown(name)!r}, which is not pruned here"
            )
        found.append((layer, value))
    if missing := [name for name in layers if name not in {layer.name for layer, _ in found}]:
        raise damaged(path, f"its {what} lack layer {missing[0]!r}")
    return found
