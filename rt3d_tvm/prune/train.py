"""Train a model on videos, dense or while it is pruned, so that it can stop at any moment.

An epoch's order, windows and dropout follow from the seed and from what the checkpoint holds, so
that a training that was killed ends bit for bit where the unbroken one does on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import cos, isfinite, pi
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from rt3d_tvm.errors import InputError
from rt3d_tvm.models.weights import non_finite_weights
from rt3d_tvm.non_finite import listed
from rt3d_tvm.prune.checkpoint import read_checkpoint, write_checkpoint
from rt3d_tvm.prune.evaluate import accuracy
from rt3d_tvm.prune.normalise import fold_, normalise_
from rt3d_tvm.prune.project import ProjectionReport
from rt3d_tvm.prune.pruner import Pruner
from rt3d_tvm.prune.work import WorkFolder

_OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}
# Where the random order of an epoch must not meet that of another seed: below 2^16 epochs.
_EPOCHS = 1 << 16
# The epoch number whose order the batches of `Pruner.finalize` have.
_FINALIZE_EPOCH = _EPOCHS - 1


@dataclass(frozen=True, kw_only=True)
class VideoData:
    """Training items (clip, class index) and testing items (clips, class index).

    Either may have ``set_epoch``, called with the number of each epoch before it begins.
    """

    train: Dataset
    test: Dataset
    workers: int = 0


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
        if self.optimizer not in _OPTIMIZERS:
            known = " or ".join(_OPTIMIZERS)
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
        if not 0 <= self.lr_final <= self.lr:
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
        if value is not None and value < 1:
            raise InputError(f"{name.replace('_', ' ')} {value}: at least 1 is accepted")
    if plan.seed < 0:
        raise InputError(f"seed {plan.seed}: at least 0 is accepted")
    if not plan.epochs < _FINALIZE_EPOCH:
        raise InputError(f"{plan.epochs} epochs: below {_FINALIZE_EPOCH} is accepted")
    for name in ("lr", "clip_norm"):
        value = getattr(plan, name)
        if not (isfinite(value) and value > 0):
            raise InputError(f"{name.replace('_', ' ')} {value}: a number above 0 is accepted")
    if not (isfinite(plan.weight_decay) and plan.weight_decay >= 0):
        raise InputError(f"weight decay {plan.weight_decay}: a number of at least 0 is accepted")


class Watch(Protocol):
    """Who looks on; `rt3d_tvm.prune.progress` has them."""

    def begin(self, *, epoch: int, epochs: int, phase: str, steps: int) -> None: ...

    def step(self, loss: float) -> None: ...

    def end(self, row: dict) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What a training came to; ``report`` is None for a dense one."""

    test_accuracy: float
    history: list[dict]
    report: ProjectionReport | None = None


def initialise_(model: nn.Module, *, seed: int) -> None:
    """Weights to train from: He's, which keep the signal's size through layers with ReLU.

    With torch's own, a third of that, a network of eleven layers without BatchNorm hands on
    next to nothing and does not begin to learn in the epochs of a short training.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d, nn.Linear))]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    # The classes start out equally likely.
    nn.init.normal_(layers[-1].weight, std=0.01, generator=generator)


def place_(model: nn.Module, device: str) -> nn.Module:
    """Put a model on a device, its weights laid out as its convolutions are fastest there."""
    return model.to(torch.device(device), memory_format=torch.channels_last_3d)


def choose_device(name: str) -> str:
    """``auto`` is CUDA where there is one. InputError for a device that is not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device {name}: auto, cpu or cuda is accepted")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: torch finds no CUDA device here; auto or cpu is accepted")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def train_dense(
    model: nn.Module,
    data: VideoData,
    plan: DensePlan,
    work: WorkFolder,
    *,
    watch: Watch | None = None,
    plot: bool = True,
) -> Outcome:
    """Train all weights, going on where the folder's checkpoint stands.

    A model without BatchNorm gets one behind each convolution while it trains (`normalise_`).
    """
    normalise_(model)
    make = _OPTIMIZERS[plan.optimizer]
    optimizer = make(model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay)
    history: list[dict] = []
    work.begin()
    if work.begun:
        saved = read_checkpoint(work.checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        _restore_random(model, saved["random"])
        history = saved["history"]
    else:
        torch.manual_seed(plan.seed)
    steps = _steps(data.train, plan)
    total = plan.epochs * steps
    rise = max(total // 10, 1)

    def rate(step: int) -> float:
        return plan.lr * min((step + 1) / rise, _cosine((step - rise) / max(total - rise, 1)))

    for epoch in range(len(history), plan.epochs):
        row = _epoch(
            model,
            optimizer,
            data,
            plan,
            epoch=epoch,
            phase="dense",
            rate=lambda step, epoch=epoch: rate(epoch * steps + step),
            watch=watch,
        )
        row["test_accuracy"] = accuracy(model, data.test, workers=data.workers)
        history.append(row)
        write_checkpoint(
            work.checkpoint,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": _random_state(model),
                "history": history,
            },
        )
        _tell(work, history, watch=watch, plot=plot)
    fold_(model)
    return Outcome(history[-1]["test_accuracy"], history)


def train_pruned(
    model: nn.Module,
    data: VideoData,
    plan: PruningPlan,
    work: WorkFolder,
    *,
    pruner_of: Callable[[nn.Module, torch.optim.Optimizer], Pruner],
    watch: Watch | None = None,
    plot: bool = True,
) -> Outcome:
    """Prune a trained model while it trains, going on where the folder's checkpoint stands.

    ``pruner_of(model, optimizer)`` makes the `Pruner`. The model ends stripped: plain, with
    zeros in its weights.
    """
    make = _OPTIMIZERS["sgd"]
    optimizer = make(model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay)
    pruner = pruner_of(model, optimizer)
    history: list[dict] = []
    work.begin()
    if work.begun:
        history = list(pruner.load(work.checkpoint)["history"])
    else:
        torch.manual_seed(plan.seed)
    steps = _steps(data.train, plan)
    before = plan.regularization_epochs

    def retrain_rate(step: int) -> float:
        fall = _cosine(step / (plan.retrain_epochs * steps))
        return plan.lr_final + (plan.lr - plan.lr_final) * fall

    for epoch in range(len(history), plan.epochs):
        retraining = epoch >= before
        if retraining and not pruner.pruned:
            _finalize(pruner, data, plan)
        row = _epoch(
            model,
            optimizer,
            data,
            plan,
            epoch=epoch,
            phase="retrain" if retraining else pruner.algorithm.name,
            rate=(lambda step, epoch=epoch: retrain_rate((epoch - before) * steps + step))
            if retraining
            else (lambda step: plan.lr),
            regularize=pruner.regularize,
            watch=watch,
        )
        row["penalty"] = pruner.penalty()
        row["rms_density"] = pruner.density()
        row["density"] = 1 / pruner.report().rate if pruner.pruned else 1.0
        row["test_accuracy"] = accuracy(model, data.test, workers=data.workers)
        if not retraining and (epoch + 1) % plan.epochs_per_iteration == 0:
            pruner.update()
        history.append(row)
        pruner.save(work.checkpoint, extra={"history": history})
        _tell(work, history, watch=watch, plot=plot)
    report = pruner.report()
    pruner.strip()
    return Outcome(history[-1]["test_accuracy"], history, report)


def _finalize(pruner: Pruner, data: VideoData, plan: PruningPlan) -> None:
    """Prune; with a momentum from the regularization, the penalty would press on a while."""
    batches = _batches(data, plan, epoch=_FINALIZE_EPOCH)
    pruner.finalize(batches, max_batches=plan.finalize_batches)
    pruner.optimizer.state.clear()


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: VideoData,
    plan: DensePlan | PruningPlan,
    *,
    epoch: int,
    phase: str,
    rate: Callable[[int], float],
    regularize: Callable[[], None] | None = None,
    watch: Watch | None = None,
) -> dict:
    """One pass over the training videos; its row of the metrics."""
    device = next(model.parameters()).device
    if watch is not None:
        steps = _steps(data.train, plan)
        watch.begin(epoch=epoch, epochs=plan.epochs, phase=phase, steps=steps)
    model.train()
    losses = right = seen = 0
    lr = 0.0
    for step, (clips, labels) in enumerate(_batches(data, plan, epoch=epoch)):
        lr = rate(step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        clips, labels = clips.to(device), labels.to(device)
        logits = model(clips)
        loss = functional.cross_entropy(logits, labels)
        value = float(loss.detach())
        _check_finite("loss", value, plan, epoch=epoch, step=step)
        optimizer.zero_grad()
        loss.backward()
        if regularize is not None:
            regularize()
        norm = nn.utils.clip_grad_norm_(model.parameters(), plan.clip_norm)
        _check_finite("gradient's norm", float(norm), plan, epoch=epoch, step=step)
        optimizer.step()
        losses += value * len(labels)
        right += int((logits.detach().argmax(1) == labels).sum())
        seen += len(labels)
        if watch is not None:
            watch.step(value)
    model.eval()
    if found := non_finite_weights(model):
        raise InputError(f"epoch {epoch + 1} left {listed(found)} not finite: {_needed(plan)}")
    return {
        "epoch": epoch + 1,
        "phase": phase,
        "lr": lr,
        "loss": losses / seen,
        "train_accuracy": right / seen,
    }


def _check_finite(
    what: str, value: float, plan: DensePlan | PruningPlan, *, epoch: int, step: int
) -> None:
    """InputError for a training that has diverged, before a step spoils the weights."""
    if not isfinite(value):
        place = f"epoch {epoch + 1}, step {step + 1}"
        raise InputError(f"the {what} is {value} in {place}: {_needed(plan)}")


def _needed(plan: DensePlan | PruningPlan) -> str:
    return f"a learning rate below {plan.lr} is needed, or a smaller lambda"


class _Order:
    """A sampler: the training videos in the order of one epoch."""

    def __init__(self, plan: DensePlan | PruningPlan, dataset: Dataset, epoch: int) -> None:
        generator = torch.Generator().manual_seed(plan.seed * _EPOCHS + epoch)
        order = torch.randperm(len(dataset), generator=generator).tolist()
        self._order = order[: _steps(dataset, plan) * plan.batch]

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


def _batches(data: VideoData, plan: DensePlan | PruningPlan, *, epoch: int) -> DataLoader:
    set_epoch = getattr(data.train, "set_epoch", None)
    if set_epoch is not None:
        set_epoch(epoch)
    return DataLoader(
        data.train,
        batch_size=plan.batch,
        sampler=_Order(plan, data.train, epoch),
        num_workers=data.workers,
        # An iterator draws a seed: not from the generator that dropout draws from.
        generator=torch.Generator().manual_seed(epoch),
    )


def _steps(dataset: Dataset, plan: DensePlan | PruningPlan) -> int:
    """Batches in an epoch; the rest of the videos, less than a batch, has its turn in another."""
    steps = max(len(dataset) // plan.batch, 1)
    return steps if plan.steps_per_epoch is None else min(steps, plan.steps_per_epoch)


def _cosine(share: float) -> float:
    """From 1 at 0 to 0 at 1; 1 before it."""
    return (1 + cos(pi * min(max(share, 0.0), 1.0))) / 2


def _tell(work: WorkFolder, history: list[dict], *, watch: Watch | None, plot: bool) -> None:
    work.write_metrics(history)
    if plot:
        work.plot(history)
    if watch is not None:
        watch.end(history[-1])


def _random_state(model: nn.Module) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _restore_random(model: nn.Module, state: dict[str, Tensor]) -> None:
    device = next(model.parameters()).device
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
