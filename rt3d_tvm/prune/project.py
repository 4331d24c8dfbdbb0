"""One-shot magnitude projection of a whole model to a pruning rate of its overall MACs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.macs import LayerMacs, count_macs
from rt3d_tvm.prune.schemes import Scheme

_PRUNABLE = (nn.Conv2d, nn.Conv3d)
_RATE_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """What became of one layer. ``pruned`` is False for those that only count in the total.

    ``empty_filters`` have no weight left: they put out their bias, whatever the input.
    """

    name: str
    shape: tuple[int, ...]
    pruned: bool
    density: float
    dense_macs: int
    kept_macs: int
    empty_filters: int


@dataclass(frozen=True, kw_only=True)
class ProjectionReport:
    """What a projection did to a model; ``rate`` is dense MACs / kept MACs of the whole of it."""

    scheme: str
    order: int
    target_rate: float
    rate: float
    dense_macs: int
    kept_macs: int
    layers: tuple[LayerReport, ...]


@dataclass(frozen=True)
class _Units:
    """The units of one layer that still hold a weight: importance and MACs of each, flat."""

    name: str
    grid: torch.Size
    score: Tensor
    macs: Tensor


def project_(
    model: nn.Module,
    *,
    scheme: Scheme,
    rate: float,
    input_shape: Sequence[int],
    order: int = 2,
    ignore: Iterable[str] = (),
) -> ProjectionReport:
    """Zero the least important units of the model's convolutions, in place, down to ``rate``.

    Arguments and errors are those of `choose_masks`.
    """
    masks = choose_masks(
        model, scheme=scheme, rate=rate, input_shape=input_shape, order=order, ignore=ignore
    )
    apply_masks_(model, masks)
    layers = tuple(
        _layer_report(layer, masks.get(layer.name)) for layer in count_macs(model, input_shape)
    )
    dense = sum(layer.dense_macs for layer in layers)
    kept = sum(layer.kept_macs for layer in layers)
    return ProjectionReport(
        scheme=str(scheme),
        order=order,
        target_rate=rate,
        rate=dense / kept,
        dense_macs=dense,
        kept_macs=kept,
        layers=layers,
    )


def choose_masks(
    model: nn.Module,
    *,
    scheme: Scheme,
    rate: float,
    input_shape: Sequence[int],
    order: int = 2,
    ignore: Iterable[str] = (),
) -> dict[str, Tensor]:
    """Which weights stay, by layer name: bool masks of the weights' shapes.

    ``rate`` is dense / kept MACs of the whole model on ``input_shape``, as the paper counts:
    linear layers and those named in ``ignore`` are in the total on both sides but stay whole.
    One threshold serves all layers. It cuts the mean norm of each unit (see `Scheme.mean_norms`)
    over the RMS of its layer, so that a layer with a few strong units and many weak ones gives
    more than one whose units are alike, and a layer's overall scale, which BatchNorm undoes,
    does not matter.

    The best unit of a layer always stays, so that the signal gets through every layer. A filter
    has no such floor: under ``filter`` that would forbid pruning, and under the other schemes a
    row block whose units are all weak is better spent elsewhere. `LayerReport.empty_filters`
    counts those that lost everything.

    InputError for a rate below 1 or beyond reach (with the highest that is not), for one that
    this scheme's units are too coarse to meet within 1 % (with the nearest they do), for a name
    in ``ignore`` that is not a layer, and for weights that are not finite.
    """
    if not (isfinite(rate) and rate >= 1):
        raise InputError(f"a pruning rate is a finite number of at least 1, got {rate}")
    layers = count_macs(model, input_shape)
    ignore = frozenset(ignore)
    if unknown := ignore - {layer.name for layer in layers}:
        raise InputError(
            f"no layer to ignore named {', '.join(sorted(unknown))}; "
            f"layers: {', '.join(layer.name for layer in layers)}"
        )
    units = []
    whole = 0
    for layer in layers:
        module = model.get_submodule(layer.name)
        if isinstance(module, _PRUNABLE) and layer.name not in ignore:
            units.append(_units(layer, module, scheme, order))
        else:
            whole += layer.kept
    if not units:
        raise InputError("the model has no convolution to prune; Conv2d and Conv3d are pruned")

    keep = _threshold(units, whole=whole, dense=sum(layer.dense for layer in layers), rate=rate)
    masks = {}
    for layer, kept in zip(units, keep, strict=True):
        module = model.get_submodule(layer.name)
        masks[layer.name] = scheme.mask(
            kept.reshape(layer.grid), module.weight.shape, groups=module.groups
        )
    return masks


def apply_masks_(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Zero, in place, every weight whose mask is False."""
    with torch.no_grad():
        for name, mask in masks.items():
            # Not a product with the mask: that leaves -0.0 behind.
            model.get_submodule(name).weight.masked_fill_(~mask, 0.0)


def _units(layer: LayerMacs, module: nn.Conv2d | nn.Conv3d, scheme: Scheme, order: int) -> _Units:
    weight = module.weight.detach()
    if not bool(torch.isfinite(weight).all()):
        raise InputError(f"layer {layer.name!r} has weights that are not finite")
    norms = scheme.mean_norms(weight, order=order, groups=module.groups)
    rms = weight.double().square().mean().sqrt()
    # A layer that is all zeros has nothing to compare, and nothing to lose.
    score = norms / rms if rms > 0 else norms
    sizes = scheme.sizes(weight.shape, groups=module.groups, device=weight.device)
    macs = torch.where(norms > 0, sizes * layer.positions, 0)
    return _Units(layer.name, norms.shape, score.flatten(), macs.flatten())


def _threshold(units: list[_Units], *, whole: int, dense: int, rate: float) -> list[Tensor]:
    """Cut all units at the one score that brings the kept MACs closest to dense / rate."""
    score = torch.cat([layer.score for layer in units])
    macs = torch.cat([layer.macs for layer in units])
    first = 0
    floor = whole
    for layer in units:
        best = first + int(layer.score.argmax())
        score[best] = torch.inf
        floor += int(macs[best])
        first += len(layer.score)

    order = torch.argsort(score, stable=True)[: len(score) - len(units)]
    # kept[i]: MACs left when the i least important units are gone.
    kept = whole + int(macs.sum()) - torch.cat([macs.new_zeros(1), macs[order].cumsum(0)])
    cut = int((kept - dense / rate).abs().argmin())
    if abs(dense / int(kept[cut]) / rate - 1) > _RATE_TOLERANCE:
        raise InputError(_unreachable(rate, dense / kept.unique().double(), dense / floor))
    keep = macs > 0
    keep[order[:cut]] = False
    return list(keep.split([len(layer.score) for layer in units]))


def _unreachable(rate: float, reachable: Tensor, highest: float) -> str:
    if rate > highest:
        return (
            f"pruning rate {rate:g} is beyond reach: the highest is {highest:.4g}, with one unit "
            "left in every convolution that is pruned"
        )
    lowest = float(reachable.min())
    if rate < lowest:
        return f"the model is pruned at rate {lowest:.4g} already, which is above {rate:g}"
    below = float(reachable[reachable <= rate].max())
    above = float(reachable[reachable >= rate].min())
    return (
        f"pruning rate {rate:g} cannot be met within {_RATE_TOLERANCE:.0%}: the units of this "
        f"scheme are too large for this model; the nearest rates are {below:.4g} and {above:.4g}"
    )


def _layer_report(layer: LayerMacs, mask: Tensor | None) -> LayerReport:
    """By the mask where there is one: a kept unit costs all its MACs, zeros in it or not."""
    kept = layer.kept if mask is None else int(mask.sum()) * layer.positions
    empty = 0 if mask is None else int((~mask.flatten(1).any(1)).sum())
    return LayerReport(
        name=layer.name,
        shape=layer.shape,
        pruned=mask is not None,
        density=kept / layer.dense,
        dense_macs=layer.dense,
        kept_macs=kept,
        empty_filters=empty,
    )
