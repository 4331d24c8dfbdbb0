"""Count the multiply-accumulates of a torch model, as it was and with its zeros left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from rt3d_tvm.errors import InputError

_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Layers with weights that do work this count would miss; leaving them out would be a wrong total.
_UNCOUNTED = (
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Bilinear,
    nn.RNNBase,
    nn.MultiheadAttention,
)


@dataclass(frozen=True, kw_only=True)
class LayerMacs:
    """One layer's work on one input: every weight is used once at each of ``positions``.

    ``kept`` leaves out the weights that are zero. Bias, normalisation and pooling count nothing.
    """

    name: str
    shape: tuple[int, ...]
    positions: int
    dense: int
    kept: int

    @property
    def density(self) -> float:
        return self.kept / self.dense


def layer_positions(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """Output positions (batch included) of each convolution and linear layer, in execution order.

    Runs the model on torch's meta device: no arithmetic, no memory. A layer that is called twice
    has the positions of both calls. InputError for a layer whose work cannot be counted, and for
    an input that the model does not take.
    """
    positions: dict[str, int] = defaultdict(int)
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, _UNCOUNTED):
            raise InputError(
                f"cannot count the MACs of layer {name!r}, a {type(module).__name__}; "
                f"counted are {', '.join(kind.__name__ for kind in _COUNTED)}"
            )
        if isinstance(module, _COUNTED):

            def count(module, _inputs, output, name=name):
                filters = module.weight.shape[0]
                positions[name] += output.numel() // filters

            hooks.append(module.register_forward_hook(count))
    tensors = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    was_training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            clip = torch.empty(tuple(input_shape), device="meta")
            torch.func.functional_call(model, tensors, (clip,))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the model does not take an input {list(input_shape)}: {reason}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in was_training.items():
            module.training = mode
    return dict(positions)


def count_macs(model: nn.Module, input_shape: Sequence[int]) -> tuple[LayerMacs, ...]:
    """MACs of every convolution and linear layer on one input, in execution order.

    For weights on the meta device, which have no values, ``kept`` equals ``dense``. InputError as
    for `layer_positions`.
    """
    layers = []
    for name, positions in layer_positions(model, input_shape).items():
        weight = model.get_submodule(name).weight.detach()
        nonzero = weight.numel() if weight.is_meta else int(torch.count_nonzero(weight))
        layers.append(
            LayerMacs(
                name=name,
                shape=tuple(weight.shape),
                positions=positions,
                dense=weight.numel() * positions,
                kept=nonzero * positions,
            )
        )
    return tuple(layers)
