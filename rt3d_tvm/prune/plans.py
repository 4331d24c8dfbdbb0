"""How long and how fast a training learns: plans, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import isfinite

import torch

from rt3d_tvm.errors import InputError

OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}
# Where the random order of an epoch must not meet that of another seed: below 2^16 epochs.
EPOCHS = 1 << 16
# The epoch number whose order the batches of `Pruner.finalize` have.
FINALIZE_EPOCH = EPOCHS - 1
# torch's generators take 64 bits, 16 of which number the epochs.
_LARGEST_SEED = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class DensePlan:
    """Training all weights: a tenth of the steps rising to ``lr``, then a cosine to 0.

    ``optimizer`` is adamw, or sgd with momentum 0.9.
    """

    optimizer: str = "adamw"
    epochs: int = 30
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-2
    clip_norm: float = 5.0
    steps_per_epoch: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_plan(self, counts=("epochs", "batch"))
        if self.optimizer not in OPTIMIZERS:
            known = " or ".join(OPTIMIZERS)
            raise InputError(f"optimizer {self.optimizer}: {known} is accepted")


@dataclass(frozen=True, kw_only=True)
class PruningPlan:
    """``iterations`` of regularization at ``lr``, then the prune, then masked retraining.

    Stochastic gradient descent with momentum 0.9, in whose terms lambda is defined. The learning
    rate of the retraining falls from ``lr`` to ``lr_final`` along a cosine. An epoch is every
    training video once, or ``steps_per_epoch`` batches of them.
    """

    iterations: int = 4
    epochs_per_iteration: int = 5
    retrain_epochs: int = 10
    batch: int = 32
    lr: float = 5e-3
    lr_final: float = 2e-4
    weight_decay: float = 0.0
    clip_norm: float = 5.0
    steps_per_epoch: int | None = None
    finalize_batches: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("iterations", "epochs_per_iteration", "retrain_epochs", "batch")
        _check_plan(self, counts=(*counts, "finalize_batches"))
        if not (_is_finite(self.lr_final) and 0 <= self.lr_final <= self.lr):
            raise InputError(f"final learning rate {self.lr_final}: 0 to {self.lr} is accepted")

    @property
    def regularization_epochs(self) -> int:
        return self.iterations * self.epochs_per_iteration

    @property
    def epochs(self) -> int:
        return self.regularization_epochs + self.retrain_epochs


def _check_plan(plan: DensePlan | PruningPlan, *, counts: tuple[str, ...]) -> None:
    for name in (*counts, "steps_per_epoch"):
        value = getattr(plan, name)
        if value is None and name == "steps_per_epoch":
            continue
        if not (_is_whole(value) and value >= 1):
            raise InputError(f"{_words(name)} {value}: at least 1 is accepted, a whole number")
    if not (_is_whole(plan.seed) and 0 <= plan.seed <= _LARGEST_SEED):
        raise InputError(f"seed {plan.seed}: at least 0 is accepted, at most {_LARGEST_SEED}")
    if not plan.epochs < FINALIZE_EPOCH:
        raise InputError(f"{plan.epochs} epochs: below {FINALIZE_EPOCH} is accepted")
    for name in ("lr", "clip_norm"):
        value = getattr(plan, name)
        if not (_is_finite(value) and value > 0):
            raise InputError(f"{_words(name)} {value}: a number above 0 is accepted")
    if not (_is_finite(plan.weight_decay) and plan.weight_decay >= 0):
        raise InputError(f"weight decay {plan.weight_decay}: a number of at least 0 is accepted")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return (_is_whole(value) or isinstance(value, float)) and isfinite(value)
