"""One-shot magnitude projection of a whole model to a pruning rate of its overall MACs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import isfinite
from typing import TextIO

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rt3d_tvm.console import print_table
from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.macs import LayerMacs, count_macs, layer_positions
from rt3d_tvm.prune.schemes import Scheme
from topi_sparse.kernel_group import KernelGroup

_PRUNABLE = (nn.Conv2d, nn.Conv3d)
_RATE_TOLERANCE = 0.01
_SPARED = 32


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """What became of one layer. ``pruned`` is False for those that only count in the total.

    ``group`` is the kernel group a layer was pruned by, if its scheme has one. Parameters are
    weights and biases. ``empty_filters`` have no weight left: they put out their bias, whatever
    the input.
    """

    name: str
    shape: tuple[int, ...]
    pruned: bool
    group: str | None
    density: float
    dense_macs: int
    kept_macs: int
    dense_params: int
    kept_params: int
    empty_filters: int


@dataclass(frozen=True, kw_only=True)
class ProjectionReport:
    """What pruning did to a model; ``rate`` is dense MACs / kept MACs of the whole of it.

    Parameters are those of the whole model too: more than its layers have, if it normalises.
    """

    algorithm: str
    scheme: str
    target_rate: float
    rate: float
    dense_macs: int
    kept_macs: int
    dense_params: int
    kept_params: int
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
    warn_if_severed(model, input_shape=input_shape)
    return report_masks(
        model,
        masks,
        layer_schemes(model, scheme=scheme, input_shape=input_shape, ignore=ignore),
        input_shape=input_shape,
        algorithm=f"projection by l{order} norm",
        target_rate=rate,
    )


def choose_masks(
    model: nn.Module,
    *,
    scheme: Scheme,
    rate: float,
    input_shape: Sequence[int],
    order: int = 2,
    ignore: Iterable[str] = (),
    group_sizes: Mapping[str, KernelGroup] | None = None,
    importance: Mapping[str, Tensor] | None = None,
    exact: bool = True,
) -> dict[str, Tensor]:
    """Which weights stay, by layer name: bool masks of the weights' shapes.

    ``rate`` is dense / kept MACs of the whole model on ``input_shape``, as the paper counts:
    linear layers and those named in ``ignore`` are in the total on both sides but stay whole.
    One threshold serves all layers. It cuts the mean norm of each unit (see `Scheme.mean_norms`)
    over the RMS of its layer, so that a layer with a few strong units and many weak ones gives
    more than one whose units are alike, and a layer's overall scale, which BatchNorm undoes,
    does not matter. Where the unit at the threshold is too large to meet the rate with it or
    without it, smaller ones just above the threshold go in its place.

    The best unit of a layer always stays, so that no layer is gone whole; what it reads may still
    be pruned in the layer before (`warn_if_severed`). A filter has no such floor: under ``filter``
    that would forbid pruning, and under the other schemes a row block whose units are all weak is
    better spent elsewhere. `LayerReport.empty_filters` counts those that lost everything.

    ``group_sizes`` are the kernel groups of layers that have one of their own. ``importance``
    has a tensor of the weight's shape for each layer, to be compared in the weights' place, and
    by its rank in the layer alone: all layers then give the same share. What is zero already
    counts as pruned in either case. If not ``exact``, the threshold stays as high
    as it can without exceeding the rate, for a step on the way to a higher one.

    InputError for a rate below 1 or beyond reach (with the highest that is not), for one that
    this scheme's units are too coarse to meet within 1 % (with the nearest they do), for a name
    in ``ignore`` or ``group_sizes`` that is not a layer, and for weights that are not finite.
    """
    if not (isfinite(rate) and rate >= 1):
        raise InputError(f"a pruning rate is a finite number of at least 1, got {rate}")
    schemes = layer_schemes(
        model, scheme=scheme, input_shape=input_shape, ignore=ignore, group_sizes=group_sizes
    )
    layers = count_macs(model, input_shape)
    units = []
    for layer in layers:
        if layer.name in schemes:
            module = model.get_submodule(layer.name)
            given = None if importance is None else importance[layer.name]
            units.append(_units(layer, module, schemes[layer.name], order, given))
    keep = _threshold(
        units,
        whole=sum(layer.kept for layer in layers if layer.name not in schemes),
        dense=sum(layer.dense for layer in layers),
        rate=rate,
        exact=exact,
    )
    masks = {}
    for layer, kept in zip(units, keep, strict=True):
        module = model.get_submodule(layer.name)
        masks[layer.name] = schemes[layer.name].mask(
            kept.reshape(layer.grid), module.weight.shape, groups=module.groups
        )
    return masks


def layer_schemes(
    model: nn.Module,
    *,
    scheme: Scheme,
    input_shape: Sequence[int],
    ignore: Iterable[str] = (),
    group_sizes: Mapping[str, KernelGroup] | None = None,
) -> dict[str, Scheme]:
    """The scheme of each layer that is to be pruned, in execution order.

    These are the Conv2d and Conv3d that run and are not in ``ignore``, but for depthwise ones: a
    filter of one channel is no part of a kernel group, and kernels skip no zeros in it. InputError
    for a name that is no such layer, for one that is both ignored and given a group, and if no
    layer is left.
    """
    group_sizes = group_sizes or {}
    ignore = frozenset(ignore)
    layers = layer_positions(model, input_shape)
    convolutions = [n for n in layers if _is_prunable(model.get_submodule(n))]
    _refuse_unknown("no layer to ignore named", ignore, layers)
    _refuse_unknown("no convolution to set a group size for named", group_sizes, convolutions)
    if both := sorted(ignore & group_sizes.keys()):
        raise InputError(f"ignored and given a group size at once: {', '.join(both)}; take one")
    schemes = {
        name: replace(scheme, group=group_sizes.get(name, scheme.group))
        for name in convolutions
        if name not in ignore
    }
    if not schemes:
        raise InputError("the model has no convolution to prune; Conv2d and Conv3d are pruned")
    return schemes


def _is_prunable(module: nn.Module) -> bool:
    if not isinstance(module, _PRUNABLE):
        return False
    return module.groups == 1 or module.in_channels > module.groups


def apply_masks_(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Zero, in place, every weight whose mask is False."""
    with torch.no_grad():
        for name, mask in masks.items():
            # Not a product with the mask: that leaves -0.0 behind.
            model.get_submodule(name).weight.masked_fill_(~mask, 0.0)


def report_masks(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    schemes: Mapping[str, Scheme],
    *,
    input_shape: Sequence[int],
    algorithm: str,
    target_rate: float,
) -> ProjectionReport:
    """What a model has left, layer by layer, under the masks that were chosen by ``schemes``."""
    layers = tuple(
        _layer_report(model, layer, masks.get(layer.name), schemes.get(layer.name))
        for layer in count_macs(model, input_shape)
    )
    dense = sum(layer.dense_macs for layer in layers)
    kept = sum(layer.kept_macs for layer in layers)
    params = sum(tensor.numel() for tensor in model.parameters())
    return ProjectionReport(
        algorithm=algorithm,
        scheme=", ".join(dict.fromkeys(map(str, schemes.values()))),
        target_rate=target_rate,
        rate=dense / kept,
        dense_macs=dense,
        kept_macs=kept,
        dense_params=params,
        kept_params=params - sum(layer.dense_params - layer.kept_params for layer in layers),
        layers=layers,
    )


def warn_if_severed(model: nn.Module, *, input_shape: Sequence[int]) -> None:
    """Warn where nothing of the input reaches the output any more, naming the first layer cut off.

    Every layer keeps a unit, but all that a narrow one reads may be pruned in the layer before it.
    Seen without arithmetic that could cancel: in a copy, a filter is the mean of the inputs whose
    weights are not zero, nothing is added to it, and what is then zero for an input of ones has
    no path from it.
    """
    copy = deepcopy(model).eval()
    cut: list[str] = []
    for name, module in copy.named_modules():
        _only_paths_(module)
        if isinstance(module, _PRUNABLE):
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: (
                    None if output.any() else cut.append(name)
                )
            )
    with torch.no_grad():
        reached = copy(next(copy.parameters()).new_ones(tuple(input_shape))).any()
    if not reached:
        warnings.warn(
            f"nothing of the input reaches the output: all that layer {cut[0]!r} reads is pruned "
            "in the layers before it; a lower rate, smaller kernel groups or scheme kgs would "
            "leave a path",
            stacklevel=3,
        )


def _only_paths_(module: nn.Module) -> None:
    """Make a module's own weights show which inputs it reads; biases and statistics add nothing."""
    for name, value in module.named_parameters(recurse=False):
        if name == "bias":
            value.data.zero_()
        elif isinstance(module, _BatchNorm):
            value.data.fill_(1)
        else:
            kept = (value.data != 0).to(value.dtype).flatten(1)
            value.data = (kept / kept.sum(1, keepdim=True).clamp(min=1)).view_as(value)
    if isinstance(module, _BatchNorm) and module.running_mean is not None:
        module.running_mean.zero_()
        module.running_var.fill_(1)


def print_report(report: ProjectionReport, *, file: TextIO | None = None) -> None:
    """Print MACs, parameters and density of each layer and of the whole, before and after."""
    rows = [
        (
            layer.name,
            layer.shape,
            layer.group if layer.pruned else "whole",
            layer.dense_macs,
            layer.kept_macs,
            layer.dense_params,
            layer.kept_params,
            layer.density,
        )
        for layer in report.layers
    ]
    total = (report.dense_macs, report.kept_macs, report.dense_params, report.kept_params)
    rows.append(("model", None, None, *total, report.kept_macs / report.dense_macs))
    print_table(
        rows,
        columns=("layer", "shape", "group", "MACs", "kept", "parameters", "kept", "density"),
        title=f"{report.algorithm}, {report.scheme}: {report.rate:.4g}x",
        file=file,
    )


def _refuse_unknown(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    if unknown := sorted(set(names).difference(known)):
        raise InputError(f"{what} {', '.join(unknown)}; layers: {', '.join(known)}")


def _units(
    layer: LayerMacs,
    module: nn.Conv2d | nn.Conv3d,
    scheme: Scheme,
    order: int,
    importance: Tensor | None,
) -> _Units:
    weight = module.weight.detach()
    if not bool(torch.isfinite(weight).all()):
        raise InputError(f"layer {layer.name!r} has weights that are not finite")
    compared = weight if importance is None else importance
    norms = scheme.mean_norms(compared, order=order, groups=module.groups)
    sizes = scheme.sizes(weight.shape, groups=module.groups, device=weight.device)
    alive = scheme.mean_norms(weight, order=1, groups=module.groups) > 0
    # The best unit stays: one of those that are left, even if none of them is of any importance.
    score = torch.where(alive, norms, -1.0).flatten()
    if importance is None:
        rms = weight.double().square().mean().sqrt()
        # A layer that is all zeros has nothing to compare, and nothing to lose.
        score = score / rms if rms > 0 else score
    else:
        ascending = score.argsort(stable=True)
        share = sizes.flatten()[ascending].cumsum(0) / sizes.sum()
        score = torch.empty_like(share).index_put_((ascending,), share)
    macs = torch.where(alive, sizes * layer.positions, 0)
    return _Units(layer.name, norms.shape, score, macs.flatten())


def _threshold(
    units: list[_Units], *, whole: int, dense: int, rate: float, exact: bool
) -> list[Tensor]:
    """Cut all units at the one score that brings the kept MACs closest to dense / rate."""
    score = torch.cat([layer.score for layer in units])
    macs = torch.cat([layer.macs for layer in units])
    first = 0
    for layer in units:
        score[first + int(layer.score.argmax())] = torch.inf
        first += len(layer.score)

    order = torch.argsort(score, stable=True)[: len(score) - len(units)]
    # kept[i]: MACs left when the i least important units are gone.
    kept = whole + int(macs.sum()) - torch.cat([macs.new_zeros(1), macs[order].cumsum(0)])
    if exact:
        gone = order[: int((kept - dense / rate).abs().argmin())]
        if not _meets(dense / int(kept[len(gone)]), rate):
            gone = _in_its_place(order, kept, macs, dense=dense, rate=rate)
    else:
        gone = order[: max(0, int((kept * rate >= dense).sum()) - 1)]
    keep = macs > 0
    keep[gone] = False
    return list(keep.split([len(layer.score) for layer in units]))


def _in_its_place(order: Tensor, kept: Tensor, macs: Tensor, *, dense: int, rate: float) -> Tensor:
    """The units to prune when the one at the threshold is too large to go and too large to stay.

    One unit at or just below the threshold is spared, and those above it go that fit, the least
    important first. InputError if the rate is not met by sparing any of the last few.
    """
    at = int((kept * rate >= dense).sum()) - 1
    least = dense / (rate * (1 + _RATE_TOLERANCE))
    units, sizes = order.tolist(), macs.tolist()
    for spared in range(at, max(-1, at - _SPARED), -1):
        gone, left = units[:spared], int(kept[spared])
        for unit in units[spared + 1 :]:
            if sizes[unit] and left - sizes[unit] >= least:
                left -= sizes[unit]
                gone.append(unit)
                if _meets(dense / left, rate):
                    return torch.tensor(gone, device=order.device)
    raise InputError(_unreachable(rate, dense / kept.unique().double(), dense / int(kept[-1])))


def _meets(achieved: float, rate: float) -> bool:
    return abs(achieved / rate - 1) <= _RATE_TOLERANCE


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


def _layer_report(
    model: nn.Module, layer: LayerMacs, mask: Tensor | None, scheme: Scheme | None
) -> LayerReport:
    """By the mask where there is one: a kept unit costs all its MACs, zeros in it or not."""
    kept = layer.kept if mask is None else int(mask.sum()) * layer.positions
    empty = 0 if mask is None else int((~mask.flatten(1).any(1)).sum())
    params = sum(p.numel() for p in model.get_submodule(layer.name).parameters(recurse=False))
    return LayerReport(
        name=layer.name,
        shape=layer.shape,
        pruned=mask is not None,
        group=None if scheme is None or scheme.name == "filter" else str(scheme.group),
        density=kept / layer.dense,
        dense_macs=layer.dense,
        kept_macs=kept,
        dense_params=params,
        kept_params=params - (layer.dense - kept) // layer.positions,
        empty_filters=empty,
    )
