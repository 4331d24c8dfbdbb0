"""Masks that hold through a training: in the weights, and in what an optimizer keeps of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from rt3d_tvm.prune.survey import Survey
from rt3d_tvm.prune.weights import LayerWeight


def mask_(survey: Survey, masks: Mapping[str, Tensor]) -> None:
    """Zero the weights in effect where the masks of their layers are False."""
    for name, mask in masks.items():
        survey.layer(name).weight.mask_(~mask)


class HeldMasks:
    """The bool ``masks`` of layers, which `follow` keeps after every step of an optimizer."""

    def __init__(self, survey: Survey, masks: Mapping[str, Tensor]) -> None:
        self.masks = dict(masks)
        self._gone: list[tuple[LayerWeight, Tensor]] = []
        for name, mask in masks.items():
            weight = survey.layer(name).weight
            assert weight is not None, f"{name} has no weight of its own, and so no mask"
            self._gone.append((weight, ~mask))
        self._hook = None

    def follow(self, optimizer: Optimizer) -> None:
        """Hold now, and after every step, rather than before: so for any kind of optimizer."""

        @torch.no_grad()
        def hold(*_: object) -> None:
            for weight, gone in self._gone:
                weight.hold_(gone, optimizer)

        hold()
        self.release()
        self._hook = optimizer.register_step_post_hook(hold)

    def clear_gradients_(self) -> bool:
        """Zero the gradients of what is pruned; whether there were any gradients."""
        found = False
        for weight, gone in self._gone:
            found |= weight.has_gradient
            weight.clear_gradient_(gone)
        return found

    def release(self) -> None:
        """Let go of the optimizer."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
