"""What a model does on data: the strength of its layers' inputs, and BatchNorm's statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.inputs import ModelInputs, leaves
from rt3d_tvm.prune.probe import Tensors, call, device_of, on_the_side
from rt3d_tvm.prune.products import Product
from rt3d_tvm.prune.survey import Survey, observe, survey_model

# A batch as a data loader yields it: the model's inputs, alone or first in a sequence.
Batches = Iterable[Tensor | Sequence[object]]


def reestimate_batchnorm_(
    model: nn.Module, batches: Batches, *, inputs: ModelInputs, max_batches: int
) -> None:
    """Replace BatchNorm's running mean and variance by the mean over batches of clips.

    Pruning changes what reaches a BatchNorm, and the old statistics would undo it wrongly. All
    else is in eval mode: no dropout. A model without BatchNorm stays as it is and reads no batch.
    InputError without a batch, and for batches too small to have a variance; the model is then
    left half way.
    """
    norms = running_batchnorms(model)
    if not norms:
        return
    with on_the_side(model), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean: every batch counts the same
            norm.train()
        for values in _inputs_of(model, inputs, batches, max_batches):
            try:
                call(model, values)
            except InputError as error:
                if isinstance(error.__cause__, ValueError):
                    reason = f"batches too small for BatchNorm's statistics: {error.__cause__}"
                    raise InputError(reason) from error
                raise


def running_batchnorms(model: nn.Module) -> list[nn.Module]:
    """The BatchNorm layers that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def input_strength(
    model: nn.Module | Survey, names: Iterable[str], batches: Batches, *, max_batches: int
) -> dict[str, Tensor]:
    """The RMS of each input channel of the named layers over batches of clips, in float64.

    InputError without a batch, and for a layer that does not run or whose input is not finite.
    """
    if isinstance(model, Survey):
        survey = model
    else:
        batches = list(islice(batches, max_batches))
        first = next((leaf for leaf in leaves(batches) if isinstance(leaf, Tensor)), None)
        survey = survey_model(model, example_inputs=first)
    names, model = list(names), survey.model
    squares: dict[str, Tensor] = {}
    positions: dict[str, int] = {}

    def measure(product: Product) -> None:
        layer = None if product.source is None else survey.layer(product.source.names[0])
        if layer is None or layer.name not in names:
            return
        total, count = product.channel_squares()
        squares[layer.name] = squares.get(layer.name, 0) + total
        positions[layer.name] = positions.get(layer.name, 0) + count

    with on_the_side(model):
        tensors = Tensors.copied(model)
        for values in _inputs_of(model, survey.inputs, batches, max_batches):
            observe(model, values, tensors=tensors, found=measure, ignore=survey.ignore)
    strength = {}
    for name in names:
        if name not in squares:
            raise InputError(f"layer {name!r} did not run on the batches given")
        strength[name] = (squares[name] / positions[name]).sqrt()
        if not bool(torch.isfinite(strength[name]).all()):
            raise InputError(f"the input of layer {name!r} is not finite on the batches given")
    return strength


def _inputs_of(
    model: nn.Module, inputs: ModelInputs, batches: Batches, max_batches: int
) -> Iterator[ModelInputs]:
    """The model's inputs in up to ``max_batches`` batches, where its parameters are."""
    found = 0
    for batch in islice(batches, max_batches):
        found += 1
        yield inputs.of_batch(batch, device_of(model))
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
