"""The penalties of a regularization on all layers that are to be pruned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rt3d_tvm.prune.regularization import LayerPenalty, Regularization
from rt3d_tvm.prune.schemes import Scheme
from rt3d_tvm.prune.survey import Survey


class Penalties:
    """One penalty for each layer in ``schemes``; none for an algorithm that does not regularize.

    They are taken from the weights in effect now, and `renew` takes them again.
    """

    def __init__(self, algorithm: object, survey: Survey, schemes: Mapping[str, Scheme]) -> None:
        self._algorithm, self._survey, self._schemes = algorithm, survey, schemes
        # Each layer's MACs over their mean, so that lambda means the same in every model.
        macs = {name: survey.layer(name).dense for name in schemes}
        mean = sum(macs.values()) / len(macs)
        self._costs = {name: count / mean for name, count in macs.items()}
        self._of: dict[str, LayerPenalty] = {}
        self.renew()

    def renew(self) -> None:
        """Take them from the weights as they are."""
        if not isinstance(self._algorithm, Regularization):
            return
        self._of = {
            name: LayerPenalty.of(
                self._algorithm,
                self._survey.layer(name).filters(),
                scheme=scheme,
                conv_groups=self._survey.layer(name).conv_groups,
                cost=self._costs[name],
            )
            for name, scheme in self._schemes.items()
        }

    def add_gradients_(self) -> bool:
        """Add their gradients to those of the weights; whether these had any."""
        found = False
        for name in self._schemes:
            layer = self._survey.layer(name)
            if layer.weight.has_gradient:
                found = True
                if name in self._of:
                    gradient = self._of[name].gradient(layer.filters())
                    layer.weight.add_gradient_(layer.axes.weight(gradient))
        return found

    @torch.no_grad()
    def value(self) -> float:
        """Their sum, a term of the loss."""
        terms = (
            penalty.value(self._survey.layer(name).filters()) for name, penalty in self._of.items()
        )
        return sum(terms, start=0.0)

    @property
    def state(self) -> dict[str, tuple[float, Tensor]]:
        """What `restore` takes: the scale and factors of each."""
        return {name: (penalty.scale, penalty.factors) for name, penalty in self._of.items()}

    def restore(self, state: Mapping[str, tuple[float, Tensor]], device: torch.device) -> None:
        """Go on with penalties of before."""
        self._of = {
            name: LayerPenalty(
                self._algorithm,
                self._schemes[name],
                self._survey.layer(name).conv_groups,
                self._costs[name],
                scale,
                factors.to(device),
            )
            for name, (scale, factors) in state.items()
        }
