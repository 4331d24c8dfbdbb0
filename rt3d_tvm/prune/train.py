"""Train a model on videos, dense or while it is pruned, so that it can stop at any moment.

An epoch's order, windows and dropout follow from the seed and from what the checkpoint holds, so
that a training that was killed ends bit for bit where the unbroken one does on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import cos, isfinite, pi
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from rt3d_tvm.errors import InputError
from rt3d_tvm.models.weights import non_finite_weights
from rt3d_tvm.numerics.non_finite import listed
from rt3d_tvm.prune.checkpoint import read_checkpoint, write_checkpoint
from rt3d_tvm.prune.epochs import VideoData, epoch_batches, steps_of
from rt3d_tvm.prune.evaluate import accuracy
from rt3d_tvm.prune.frozen import Frozen
from rt3d_tvm.prune.normalise import fold_, normalise_
from rt3d_tvm.prune.plans import FINALIZE_EPOCH, OPTIMIZERS, DensePlan, PruningPlan
from rt3d_tvm.prune.probe import device_of
from rt3d_tvm.prune.pruner import Pruner
from rt3d_tvm.prune.report import ProjectionReport
from rt3d_tvm.prune.rollback import unchanged_on_error
from rt3d_tvm.prune.training_state import (
    check_history,
    check_model,
    check_optimizer,
    check_random,
    load_optimizer_,
    random_state,
    restore_random,
)
from rt3d_tvm.prune.work import WorkFolder


class Watch(Protocol):
    """Who looks on; `rt3d_tvm.prune.progress` has them."""

    def begin(self, *, epoch: int, epochs: int, phase: str, steps: int) -> None: ...

    def step(self, loss: float) -> None: ...

    def end(self, row: dict) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What a training came to."""

    test_accuracy: float
    history: list[dict]


@dataclass(frozen=True)
class PrunedOutcome(Outcome):
    """And what of the model it has pruned, and how well that did as it came."""

    report: ProjectionReport
    accuracy_before: float


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
    model.to(torch.device(device))
    for parameter in model.parameters():
        if parameter.dim() == 5:  # of a Conv3d: torch refuses the format for others
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return model


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
    frozen: Frozen | None = None,
    watch: Watch | None = None,
    plot: bool = True,
) -> Outcome:
    """Train all weights but the ``frozen``, going on where the folder's checkpoint stands.

    A model without norms gets a BatchNorm behind each convolution while it trains (`normalise_`).
    """
    work.begin()
    with unchanged_on_error(model):
        normalise_(model)
        make = OPTIMIZERS[plan.optimizer]
        trained = [each for each in model.parameters() if each.requires_grad]
        optimizer = make(trained, lr=plan.lr, weight_decay=plan.weight_decay)
        history = _resume_dense(model, optimizer, plan, work)
    if not history:
        torch.manual_seed(plan.seed)
    steps = steps_of(data.train, plan)
    total = plan.epochs * steps
    rise = max(total // 10, 1)

    def rate(step: int, *, epoch: int) -> float:
        step += epoch * steps
        return plan.lr * min((step + 1) / rise, _cosine((step - rise) / max(total - rise, 1)))

    for epoch in range(len(history), plan.epochs):
        row = _epoch(
            model,
            optimizer,
            data,
            plan,
            epoch=epoch,
            phase="dense",
            rate=partial(rate, epoch=epoch),
            frozen=frozen,
            watch=watch,
        )
        row["test_accuracy"] = accuracy(model, data.test, workers=data.workers)
        history.append(row)
        write_checkpoint(
            work.checkpoint,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": random_state(device_of(model)),
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
) -> PrunedOutcome:
    """Prune a trained model while it trains, going on where the folder's checkpoint stands.

    ``pruner_of(model, optimizer)`` makes the `Pruner`. The model ends stripped: plain, with
    zeros in its weights.
    """
    make = OPTIMIZERS["sgd"]
    optimizer = make(model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay)
    pruner = pruner_of(model, optimizer)
    work.begin()
    accuracy_before = accuracy(model, data.test, workers=data.workers)  # not of a checkpoint's
    history = _resume_pruned(pruner, plan, work)
    if not history:
        torch.manual_seed(plan.seed)
    steps = steps_of(data.train, plan)
    before = plan.regularization_epochs

    def rate(step: int, *, epoch: int) -> float:
        if epoch < before:
            return plan.lr
        step += (epoch - before) * steps
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
            rate=partial(rate, epoch=epoch),
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
    return PrunedOutcome(history[-1]["test_accuracy"], history, report, accuracy_before)


def _resume_dense(
    model: nn.Module, optimizer: torch.optim.Optimizer, plan: DensePlan, work: WorkFolder
) -> list[dict]:
    """Go on from the folder's checkpoint; the epochs so far, none where there is no checkpoint."""
    if not work.begun:
        return []
    path = work.checkpoint
    saved = read_checkpoint(path)
    weights = check_model(path, model, saved.get("model"))
    steps = check_optimizer(path, optimizer, saved.get("optimizer"))
    random = check_random(path, saved.get("random"))
    history = check_history(path, saved, epochs=plan.epochs)
    model.load_state_dict(weights)
    load_optimizer_(path, optimizer, steps)
    restore_random(device_of(model), random)
    return history


def _resume_pruned(pruner: Pruner, plan: PruningPlan, work: WorkFolder) -> list[dict]:
    """As `_resume_dense`, of a pruner and all that it has."""
    if not work.begun:
        return []
    path = work.checkpoint
    extra = read_checkpoint(path).get("extra")
    history = check_history(path, extra, epochs=plan.epochs)
    pruner.load(path)
    return history


def _finalize(pruner: Pruner, data: VideoData, plan: PruningPlan) -> None:
    """Prune; with a momentum from the regularization, the penalty would press on a while."""
    batches = epoch_batches(data, plan, epoch=FINALIZE_EPOCH)
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
    frozen: Frozen | None = None,
    watch: Watch | None = None,
) -> dict:
    """One pass over the training videos; its row of the metrics."""
    device = next(model.parameters()).device
    if watch is not None:
        steps = steps_of(data.train, plan)
        watch.begin(epoch=epoch, epochs=plan.epochs, phase=phase, steps=steps)
    model.train()
    if frozen is not None:
        frozen.stay()
    right = seen = 0
    losses = lr = 0.0
    for step, (clips, labels) in enumerate(epoch_batches(data, plan, epoch=epoch)):
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


def _cosine(share: float) -> float:
    """From 1 at 0 to 0 at 1; 1 before it."""
    return (1 + cos(pi * min(max(share, 0.0), 1.0))) / 2


def _tell(work: WorkFolder, history: list[dict], *, watch: Watch | None, plot: bool) -> None:
    work.write_metrics(history)
    if plot:
        work.plot(history)
    if watch is not None:
        watch.end(history[-1])
