"""A model's head, the layer that gives the classes; and another in its place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt3d_tvm.errors import InputError, words_of

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Classes that are equally likely to begin with: logits near 0.
_SIGMA = 0.01


def head_of(model: nn.Module, input_shape: tuple[int, ...]) -> str:
    """The name of the layer whose outputs are the classes: the last one that runs on a clip.

    InputError for a model that does not take the clip, that does not give [batch, classes], and
    whose last linear layer or convolution does not give as many outputs as it has classes.
    """
    order: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, layer in model.named_modules()
        if isinstance(layer, _LAYERS)
    ]
    try:
        output = output_of_clip(model, input_shape)
    finally:
        for hook in hooks:
            hook.remove()
    if output.dim() != 2:
        raise InputError(
            f"this {type(model).__name__} gives {list(output.shape)} for a clip; a classifier, "
            "which gives [batch, classes], is expected"
        )
    if not order:
        raise InputError(f"this {type(model).__name__} has no linear layer or convolution")
    head, classes = order[-1], output.shape[1]
    outputs = _outputs(model.get_submodule(head))
    if outputs != classes:
        raise InputError(
            f"the last layer of this {type(model).__name__}, {head}, gives {outputs} values, and "
            f"the model {classes}: it is no head to replace; num_classes as a parameter of the "
            "function that builds it is accepted"
        )
    return head


def replace_head_(
    model: nn.Module, input_shape: tuple[int, ...], classes: int, *, seed: int = 0
) -> str | None:
    """Give a classifier a new head if it has another number of classes; say so, or None.

    InputError as of `head_of`.
    """
    head = head_of(model, input_shape)
    old = model.get_submodule(head)
    before = _outputs(old)
    if before == classes:
        return None
    parent, _, child = head.rpartition(".")
    setattr(model.get_submodule(parent), child, new_head(old, classes, seed=seed))
    return f"head {head}: {before} classes replaced by {classes}, not trained yet"


def new_head(old: nn.Module, classes: int, *, seed: int) -> nn.Module:
    """A layer as the old one, of so many classes, with small random weights of a seed."""
    like = {"bias": old.bias is not None, "device": old.weight.device, "dtype": old.weight.dtype}
    if isinstance(old, nn.Linear):
        new: nn.Module = nn.Linear(old.in_features, classes, **like)
    else:
        if old.groups != 1:
            raise InputError(f"a head of {old.groups} groups: one group is accepted")
        kept = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        settings = {name: getattr(old, name) for name in kept}
        new = type(old)(old.in_channels, classes, **settings, **like)
    initialise_head_(new, seed=seed)
    return new


def initialise_head_(layer: nn.Module, *, seed: int) -> None:
    """Small random weights of a seed: the classes start out equally likely."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(_SIGMA * torch.randn(layer.weight.shape, generator=generator))
        if layer.bias is not None:
            layer.bias.zero_()


def output_of_clip(model: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """What a model in eval mode gives for a clip of zeros.

    InputError where it does not take the clip, or gives anything but one tensor.
    """
    clip = torch.zeros(input_shape)
    try:
        with torch.no_grad():
            output = model(clip)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"this {type(model).__name__} does not take a clip {list(input_shape)}: "
            f"{words_of(error, lines=1)}"
        ) from error
    if not isinstance(output, Tensor):
        raise InputError(
            f"this {type(model).__name__} gives a {type(output).__name__}; one tensor is expected"
        )
    return output


def _outputs(layer: nn.Module) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
