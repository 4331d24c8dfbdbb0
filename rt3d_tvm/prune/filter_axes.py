"""Where a weight has its filters, so that all that prunes sees filters x channels x locations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FilterAxes:
    """The axes of a weight in a model, and of the same weight by filters [M, N / groups, k...].

    Conv1d to Conv3d have it by filters already, and so has Linear, [M, N], which has no locations.
    ``inputs_first`` are a transposed convolution's [N, M / groups, k...] and the W [N, M] of
    ``x @ W``. ``conv_groups`` divide M and N; the filters of a group read its channels alone.
    """

    conv_groups: int = 1
    inputs_first: bool = False

    def filters(self, weight: Tensor) -> Tensor:
        """The weight by filters: a view or a copy of it."""
        return self._swapped(weight) if self.inputs_first else weight

    def weight(self, filters: Tensor) -> Tensor:
        """Back to the weight's own axes."""
        return self._swapped(filters) if self.inputs_first else filters

    def shape(self, weight: Sequence[int]) -> tuple[int, ...]:
        """Of the filters of a weight of this shape."""
        return tuple(self.filters(torch.empty(tuple(weight), device="meta")).shape)

    def _swapped(self, weight: Tensor) -> Tensor:
        """[a, b / groups, k...] to [b, a / groups, k...]: its own inverse."""
        first, second, *locations = weight.shape
        groups = self.conv_groups
        by_group = weight.reshape(groups, first // groups, second, *locations).transpose(1, 2)
        return by_group.reshape(groups * second, first // groups, *locations)
