"""The three sparsity schemes of the paper (section 3): filter, vanilla and KGS.

A scheme cuts a weight tensor into *units* that are kept or pruned as a whole. In all three the
units are equal blocks of the tensor, so that one block shape says everything about a scheme:

    filter   1 filter x all channels x all locations
    vanilla  a kernel group (g_m filters x g_n channels) x all locations
    kgs      a kernel group x one location (kd, kh, kw)

Where g_m or g_n does not divide the tensor, the last blocks are smaller: P = ceil(M / g_m).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from rt3d_tvm.arguments import as_group
from rt3d_tvm.errors import InputError
from topi_sparse.kernel_group import KernelGroup

Shape = tuple[int, ...]


def _filter_block(view: Shape, _group: KernelGroup) -> Shape:
    return (1, 1, *view[2:])


def _vanilla_block(view: Shape, group: KernelGroup) -> Shape:
    return (1, group.g_m, group.g_n, *view[3:])


def _kgs_block(view: Shape, group: KernelGroup) -> Shape:
    return (1, group.g_m, group.g_n, *(1 for _ in view[3:]))


_BLOCKS: dict[str, Callable[[Shape, KernelGroup], Shape]] = {
    "filter": _filter_block,
    "vanilla": _vanilla_block,
    "kgs": _kgs_block,
}
SCHEMES = tuple(_BLOCKS)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a weight may become sparse: a scheme's name and its kernel group (unused by ``filter``).

    Weights are by filters (`FilterAxes`): [M, N / groups, kd, kh, kw] of Conv3d, without kd of
    Conv2d and without both of Conv1d, and [M, N] of a linear layer, which is a 1x1x1 convolution.
    In a grouped convolution a kernel group never spans two of the ``groups``:
    its filters share a list of kept input columns, and filters of different groups read different
    channels. Units come as a tensor [groups, P, Q, locations...], each of its extents being 1
    where the scheme does not tell units apart.

    InputError for an unknown name, and for what is no kernel group; text such as 8x4 is one.
    """

    name: str
    group: KernelGroup

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", as_group(self.group, "group"))
        if self.name not in _BLOCKS:
            raise InputError(f"no sparsity scheme named {self.name!r}; known: {', '.join(SCHEMES)}")

    def __str__(self) -> str:
        return self.name if self.name == "filter" else f"{self.name} {self.group}"

    def norms(self, weight: Tensor, *, order: int = 2, groups: int = 1) -> Tensor:
        """The l1 or l2 norm of each unit, as in the paper's equations (1) and (2)."""
        return self._power_sums(weight, order, groups) ** (1 / order)

    def mean_norms(self, weight: Tensor, *, order: int = 2, groups: int = 1) -> Tensor:
        """The norm of each unit per weight: its mean magnitude (l1) or its RMS (l2).

        Pruning compares these, not the bare norms. A norm grows with the number of weights in the
        unit (as its square root for l2). So smaller units would look unimportant, though removing
        them saves little too: those at a remainder, and under vanilla those of a 1x1x1 layer beside
        a 3x3x3 one. Pruning is to lose the least energy per MAC saved: the mean over the unit.
        """
        sizes = self.sizes(weight.shape, groups=groups, device=weight.device)
        return (self._power_sums(weight, order, groups) / sizes) ** (1 / order)

    def sizes(self, shape: Sequence[int], *, groups: int = 1, device=None) -> Tensor:
        """How many weights each unit holds (int64): fewer at a remainder."""
        view, block = self._partition(shape, groups)
        sizes = torch.ones((1,) * len(view), dtype=torch.int64, device=device)
        for axis, (extent, step) in enumerate(zip(view, block, strict=True)):
            starts = torch.arange(0, extent, step, device=device)
            along = (extent - starts).clamp(max=step)
            sizes = sizes * along.reshape([-1 if a == axis else 1 for a in range(len(view))])
        return sizes

    def mask(self, keep: Tensor, shape: Sequence[int], *, groups: int = 1) -> Tensor:
        """Spread a bool per unit over the weights: True where the weight stays."""
        return self.spread(keep, shape, groups=groups)

    def spread(self, values: Tensor, shape: Sequence[int], *, groups: int = 1) -> Tensor:
        """Give every weight the value of its unit; InputError where the units do not fit."""
        view, block = self._partition(shape, groups)
        units = tuple(-(-extent // step) for extent, step in zip(view, block, strict=True))
        if tuple(values.shape) != units:
            raise InputError(f"{self} has units {list(units)} here, got {list(values.shape)}")
        for axis, (extent, step) in enumerate(zip(view, block, strict=True)):
            values = values.repeat_interleave(step, dim=axis).narrow(axis, 0, extent)
        return values.reshape(tuple(shape))

    def _partition(self, shape: Sequence[int], groups: int) -> tuple[Shape, Shape]:
        """The weight's shape with the convolution's groups as an axis, and the block in it."""
        filters, *rest = shape
        if not 2 <= len(shape) <= 5:
            raise InputError(f"a weight of filters has 2 to 5 axes, got {list(shape)}")
        if groups < 1 or filters % groups:
            raise InputError(f"{filters} filters do not divide into {groups} groups")
        view = (groups, filters // groups, *rest)
        block = _BLOCKS[self.name](view, self.group)
        # A group wider than the tensor is the whole of it, and needs no padding beyond it.
        return view, tuple(min(pair) for pair in zip(block, view, strict=True))

    def _power_sums(self, weight: Tensor, order: int, groups: int) -> Tensor:
        """The sum over each unit of |w| ** order, in float64: a unit may hold 10^5 weights."""
        if order not in (1, 2):
            raise InputError(f"the order of a norm is 1 or 2, got {order}")
        view, block = self._partition(weight.shape, groups)
        powers = weight.detach().double().abs().reshape(view)
        powers = powers if order == 1 else powers.square_()
        padding, split = [], []
        for extent, step in zip(view, block, strict=True):
            padding += [-extent % step, 0]
            split += [-(-extent // step), step]
        # F.pad counts axes from the last, and each axis as (before, after).
        powers = torch.nn.functional.pad(powers, padding[::-1])
        return powers.reshape(split).sum(dim=tuple(range(1, len(split), 2)))


def density(weight: Tensor) -> float:
    """The share of weights that are not zero."""
    return int(torch.count_nonzero(weight)) / prod(weight.shape)


def scheme_of(scheme: Scheme | str, group: KernelGroup | str | None) -> Scheme:
    """The scheme that is meant by one, or by its name and a kernel group, 8x4 where none is given.

    InputError for another value, and for a group beside a Scheme, which has one.
    """
    if isinstance(scheme, str):
        return Scheme(name=scheme, group="8x4" if group is None else group)
    if not isinstance(scheme, Scheme):
        known = ", ".join(SCHEMES)
        raise InputError(
            f"scheme {scheme!r}: {known} is accepted, or a Scheme such as "
            "Scheme(name='kgs', group='8x4')"
        )
    if group is not None:
        raise InputError(f"group {group}: the scheme has a group of its own, {scheme.group}")
    return scheme
