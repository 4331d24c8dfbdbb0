"""One threshold over the units of all layers, at which the kept MACs meet a rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.schemes import Scheme
from rt3d_tvm.prune.survey import LayerWork

_RATE_TOLERANCE = 0.01
_SPARED = 32


@dataclass(frozen=True)
class Units:
    """The units of one layer: importance and MACs of each, flat. Pruned ones have no MACs."""

    name: str
    grid: torch.Size
    score: Tensor
    macs: Tensor


def units_of(layer: LayerWork, scheme: Scheme, order: int, importance: Tensor | None) -> Units:
    """Compare the units of a layer by their weights in effect, or by ``importance``.

    InputError for weights that are not finite, or without values on the meta device.
    """
    weight = layer.filters()
    if weight.is_meta:
        raise InputError(f"layer {layer.name!r} is on the meta device: its weights have no values")
    if not bool(torch.isfinite(weight).all()):
        raise InputError(f"layer {layer.name!r} has weights that are not finite")
    groups = layer.conv_groups
    compared = weight if importance is None else layer.axes.filters(importance)
    norms = scheme.mean_norms(compared, order=order, groups=groups)
    left = _left(weight, scheme, groups)
    # The best unit stays: one of those that are left, even if none of them is of any importance.
    score = torch.where(left > 0, norms, -1.0).flatten()
    if importance is None:
        rms = weight.double().square().mean().sqrt()
        # A layer that is all zeros has nothing to compare, and nothing to lose.
        score = score / rms if rms > 0 else score
    else:
        sizes = scheme.sizes(weight.shape, groups=groups, device=weight.device)
        ascending = score.argsort(stable=True)
        share = sizes.flatten()[ascending].cumsum(0) / sizes.sum()
        score = torch.empty_like(share).index_put_((ascending,), share)
    return Units(layer.name, norms.shape, score, (left * layer.positions).flatten())


def unit_macs(layer: LayerWork, scheme: Scheme) -> int:
    """MACs of the units of a layer that are left, as kernels compute them."""
    return int(_left(layer.filters(), scheme, layer.conv_groups).sum()) * layer.positions


def _left(weight: Tensor, scheme: Scheme, groups: int) -> Tensor:
    """Weights that kernels multiply by, in each unit: they skip whole units and whole filters.

    Other zeros that were there before save nothing.
    """
    alive = scheme.norms(weight, order=1, groups=groups) > 0
    filters = (weight != 0).flatten(1).any(1).reshape(-1, *[1] * (weight.dim() - 1))
    counted = scheme.spread(alive, weight.shape, groups=groups) & filters
    return scheme.norms(counted, order=1, groups=groups).round().to(torch.int64)


def units_to_keep(
    units: list[Units], *, whole: int, dense: int, rate: float, exact: bool, staying: str = ""
) -> list[Tensor]:
    """Cut all units at the one score that brings the kept MACs closest to ``dense`` / ``rate``.

    ``whole`` are the MACs of all else. If not ``exact``, the threshold stays as high as it can
    without exceeding the rate. A flat bool tensor per layer; InputError for a rate out of reach,
    which tells of ``staying`` layers.
    """
    if not whole + sum(int(layer.macs.sum()) for layer in units):
        raise InputError("all weights of the model are zero: there is nothing to prune")
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
            gone = _in_its_place(order, kept, macs, dense=dense, rate=rate, staying=staying)
    else:
        gone = order[: max(0, int((kept * rate >= dense).sum()) - 1)]
    keep = macs > 0
    keep[gone] = False
    return list(keep.split([len(layer.score) for layer in units]))


def _in_its_place(
    order: Tensor, kept: Tensor, macs: Tensor, *, dense: int, rate: float, staying: str
) -> Tensor:
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
    reachable, highest = dense / kept.unique().double(), dense / int(kept[-1])
    raise InputError(_unreachable(rate, reachable, highest, staying))


def _meets(achieved: float, rate: float) -> bool:
    return abs(achieved / rate - 1) <= _RATE_TOLERANCE


def _unreachable(rate: float, reachable: Tensor, highest: float, staying: str) -> str:
    if rate > highest:
        return (
            f"pruning rate {rate:g} is beyond reach: the highest is {highest:.4g}, with one unit "
            f"left in every convolution that is pruned{staying}"
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
