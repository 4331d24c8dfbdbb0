"""Reweighted regularization (paper, section 4): penalties that follow the weights, eq. (3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rt3d_tvm.prune.regularization import Regularization


@dataclass(frozen=True, kw_only=True)
class Reweighted(Regularization):
    """The penalty of `Regularization` with P <- 1 / (||W_g||^2 + eps), anew in each iteration.

    One lambda, no rates for layers. The penalties come from the weights that pruning starts with,
    and from the current ones at every update (3 or 4 in the paper): strong units are let go,
    weak ones are pressed to zero.

    The norm in P is s = m / r, the unit's mean norm over the RMS of its layer at that update: the
    equation applied to weights that are scaled to RMS 1 in each layer, per weight of the unit.
    With bare norms no eps serves two layers. At initialisation the squared norm of an 8x4 unit is
    0.099 in C3D's conv1 and 7.7e-4 in conv5b, and of one that spans all locations 27 times that;
    an eps small beside the first is large beside the last, where P would be the same for all
    units, and the speed at which a unit shrinks for its size, P / ||W_g||, would differ 1,400-fold
    between the two layers though neither is more dispensable. The mean of s^2 over a layer's
    weights is 1 in any layer, so that eps means one thing in all: units far below sqrt(eps) of
    their layer's RMS count as zero and are no longer told apart. A layer that shrinks as a whole
    gets no sparser by that, and r, taken anew, does not press it harder for it; only the MACs
    of `Regularization` rank layers. P lies between 1 / (s_max^2 + eps) and 1 / eps.

    It is the eps of `Regularization` too, which for P = 1 / eps asks that lr * lambda * c stay
    below 2 * (1 + momentum) * eps ** 1.5: 0.0038 at momentum 0.9 (0.0014 if it is
    Nesterov's), where the paper's 2e-4 with lambda 1e-2 and C3D's largest c, 2.3, is 5e-6.
    """

    name: ClassVar[str] = "reweighted"
    reweights: ClassVar[bool] = True

    def factors(self, relative: Tensor) -> Tensor:
        """The penalty P of each unit, from the units' mean norms over the RMS of their layer."""
        return 1 / (relative.square() + self.eps)
