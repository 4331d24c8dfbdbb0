"""What a model does on data: the strength of its layers' inputs, and BatchNorm's statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rt3d_tvm.errors import InputError

# A batch as a data loader yields it: the clips, alone or first in a sequence.
Batches = Iterable[Tensor | Sequence[Tensor]]


def reestimate_batchnorm_(model: nn.Module, batches: Batches, *, max_batches: int) -> None:
    """Replace BatchNorm's running mean and variance by the mean over batches of clips.

    Pruning changes what reaches a BatchNorm, and the old statistics would undo it wrongly. All
    else is in eval mode: no dropout. A model without BatchNorm stays as it is and reads no batch.
    InputError without a batch, and for batches too small to have a variance; the model is then
    left half way.
    """
    norms = running_batchnorms(model)
    if not norms:
        return
    momenta = {norm: norm.momentum for norm in norms}
    with eval_mode(model), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean: every batch counts the same
            norm.train()
        try:
            for clips in _clips(model, batches, max_batches):
                model(clips)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"batches too small for BatchNorm's statistics: {error}") from error
        finally:
            for norm, momentum in momenta.items():
                norm.momentum = momentum


def running_batchnorms(model: nn.Module) -> list[nn.Module]:
    """The BatchNorm layers that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def input_strength(
    model: nn.Module, names: Iterable[str], batches: Batches, *, max_batches: int
) -> dict[str, Tensor]:
    """The RMS of each input channel of the named convolutions over batches of clips, in float64.

    InputError without a batch, and for a layer that does not run or whose input is not finite.
    """
    squares: dict[str, Tensor] = {}
    positions: dict[str, int] = {}
    hooks = []
    names = list(names)
    for name in names:

        def measure(_module, inputs, name=name):
            x = inputs[0].detach().double()
            total = x.square().sum(dim=[0, *range(2, x.dim())])
            squares[name] = squares.get(name, 0) + total
            positions[name] = positions.get(name, 0) + x.numel() // x.shape[1]

        hooks.append(model.get_submodule(name).register_forward_pre_hook(measure))
    try:
        with eval_mode(model), torch.no_grad():
            for clips in _clips(model, batches, max_batches):
                model(clips)
    finally:
        for hook in hooks:
            hook.remove()
    strength = {name: (squares[name] / positions[name]).sqrt() for name in squares}
    for name in names:
        if name not in strength:
            raise InputError(f"layer {name!r} did not run on the batches given")
        if not bool(torch.isfinite(strength[name]).all()):
            raise InputError(f"the input of layer {name!r} is not finite on the batches given")
    return strength


def _clips(model: nn.Module, batches: Batches, max_batches: int) -> Iterator[Tensor]:
    """The clips of up to ``max_batches`` batches, where the model's parameters are."""
    device = next(model.parameters()).device
    found = 0
    for batch in islice(batches, max_batches):
        clips = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
        if not isinstance(clips, Tensor):
            raise InputError(
                f"a batch is a tensor of clips, or a sequence that starts with one; got a "
                f"{type(batch).__name__}"
            )
        found += 1
        yield clips.to(device)
    if not found:
        raise InputError(
            "no batch of clips: give a data loader or a list of batches, not an iterator that was "
            "read before"
        )


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and every module back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
