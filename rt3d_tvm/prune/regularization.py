"""Regularization-based pruning (paper, section 4): a fixed penalty on every unit, eqs. (1), (2)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.schemes import Scheme


@dataclass(frozen=True, kw_only=True)
class Regularization:
    """A penalty on the norm of every unit, the same throughout the training.

    With n the number of weights in a unit g, m its mean norm (`Scheme.mean_norms`: the norm per
    weight), r the RMS of its layer's weights when pruning began, and c the layer's MACs over the
    mean MACs of the layers that are pruned, the term added to the loss is

        lambda * sum over layers of c * r * sum over units of n * P * m          (here P = 1)

    ``l1_share`` mixes the two norms of the paper: m is (1 - l1_share) times the unit's RMS, which
    is the group lasso, plus l1_share times its mean magnitude, which is a plain l1 penalty.

    Why n and r are there. Let s = m / r: how strong a unit is for its layer, 1 being typical.
    The gradient step of size lr moves s by lr * lambda * c * P, whatever the size of the unit,
    the number of units and the scale of the layer's weights. With the bare norms of equations (1)
    and (2) it would move s by lr * lambda / (sqrt(n) * r): at initialisation 11 times as much in
    C3D's conv5b as in its conv1, because r falls with the square root of the fan-in.

    Put differently, n * r * m has the units of sum(w ** 2), and lambda those of weight decay: at
    s = c = P = 1 a unit shrinks as under weight decay of lambda, and the weaker it is, the faster
    for its size. Hence the rule for lambda: the sum of lr / (1 - momentum) over all steps, times
    lambda, is the share of its norm that a typical unit loses if the loss does not object. Useful
    is 0.3 to 1, and 1e-2 gives 0.7 on the paper's schedule (120 epochs of UCF101, 36,000 steps at
    2e-4, momentum 0.9). The paper's 5e-4 multiplies bare norms; for 8x4 groups that is 1.6e-3
    (conv1) to 1.8e-2 (conv5b) here.

    ``eps`` is where zero begins. The gradient of a norm has the same length however small the
    unit, so that every step carries it past zero and it comes to rest at the size of a step; with
    momentum and the learning rates of a short training that is no small size. Below s =
    sqrt(eps), 0.1 by default, m is therefore continued by the parabola that meets it there with
    its own slope (Huber's function): the pull fades in proportion to s. A unit that the loss
    defends less than the penalty presses it then ends below sqrt(eps), and one that it does not
    defend goes on to zero; above sqrt(eps) the gradient is that of equations (1) to (3). The
    steps converge while lr * lambda * c * P / sqrt(eps) < 2 * (1 + momentum), of which Nesterov's
    momentum takes a (1 + 2 * momentum)-th.

    InputError for a number out of range.
    """

    name: ClassVar[str] = "regularization"
    reweights: ClassVar[bool] = False

    lambda_: float = 1e-2
    l1_share: float = 0.0
    eps: float = 1e-2

    def __post_init__(self) -> None:
        if not (isfinite(self.lambda_) and self.lambda_ >= 0):
            raise InputError(f"lambda is a finite number of at least 0, got {self.lambda_}")
        if not 0 <= self.l1_share <= 1:
            raise InputError(f"l1_share is between 0 (l2 norms) and 1 (l1), got {self.l1_share}")
        if not (isfinite(self.eps) and self.eps > 0):
            raise InputError(f"eps is a finite number above 0, got {self.eps}")

    def factors(self, relative: Tensor) -> Tensor:
        """The penalty P of each unit, from the units' mean norms over the RMS of their layer."""
        return torch.ones_like(relative)


@dataclass(frozen=True)
class LayerPenalty:
    """The penalty on one layer: c, r and P of `Regularization`, the P one for each unit."""

    algorithm: Regularization
    scheme: Scheme
    conv_groups: int
    cost: float
    scale: float
    factors: Tensor

    @classmethod
    def of(
        cls,
        algorithm: Regularization,
        weight: Tensor,
        *,
        scheme: Scheme,
        conv_groups: int,
        cost: float,
    ) -> LayerPenalty:
        """The penalty that ``algorithm`` gives a layer with these weights."""
        scale = float(weight.detach().double().square().mean().sqrt())
        norms = scheme.mean_norms(weight, order=2, groups=conv_groups)
        if algorithm.l1_share:
            means = scheme.mean_norms(weight, order=1, groups=conv_groups)
            norms = torch.lerp(norms, means, algorithm.l1_share)
        # A layer that is all zeros has no strong and weak units: all weigh the same.
        relative = norms / scale if scale > 0 else norms
        return cls(algorithm, scheme, conv_groups, cost, scale, algorithm.factors(relative))

    def value(self, weight: Tensor) -> float:
        """This layer's term of the loss."""
        weight = weight.detach()
        share = self.algorithm.l1_share
        norms = self._smoothed(self.scheme.mean_norms(weight, groups=self.conv_groups))
        if share:
            magnitudes = self._smoothed(weight.double().abs())
            means = self.scheme.mean_norms(magnitudes, order=1, groups=self.conv_groups)
            norms = torch.lerp(norms, means, share)
        sizes = self.scheme.sizes(weight.shape, groups=self.conv_groups, device=weight.device)
        return self._strength * float((sizes * self.factors * norms).sum())

    def gradient(self, weight: Tensor) -> Tensor:
        """The gradient of `value`: of the weight's shape and dtype, 0 for what is 0."""
        weight = weight.detach()
        if not self.bend:
            return torch.zeros_like(weight)
        share = self.algorithm.l1_share
        rms = self.scheme.mean_norms(weight, groups=self.conv_groups)
        # d(n m)/dw is w / RMS for the l2 norm and the sign of w for l1: n has cancelled.
        pull = self._strength * (1 - share) * self.factors / rms.clamp(min=self.bend)
        gradient = self._spread(pull, weight) * weight
        if share:
            push = self._strength * share * self.factors
            gradient += self._spread(push, weight) * (weight / self.bend).clamp(-1, 1)
        return gradient

    @property
    def _strength(self) -> float:
        return self.algorithm.lambda_ * self.cost * self.scale

    @property
    def bend(self) -> float:
        """The norm below which a unit counts as zero."""
        return self.algorithm.eps**0.5 * self.scale

    def _smoothed(self, norms: Tensor) -> Tensor:
        bend = self.bend
        if not bend:
            return norms
        return torch.where(norms < bend, norms.square() / (2 * bend), norms - bend / 2)

    def _spread(self, values: Tensor, weight: Tensor) -> Tensor:
        return self.scheme.spread(values.to(weight.dtype), weight.shape, groups=self.conv_groups)
