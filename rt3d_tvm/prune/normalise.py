"""BatchNorm for the time of a training from scratch, and folded into the convolutions after it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# What normalises already, of the user's own models too.
_ANY_NORM = (
    *(nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm),
    nn.RMSNorm,
)
_NORMS = {nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}


class _Normalised(nn.Sequential):
    """A convolution and the BatchNorm that was put behind it."""


def normalise_(model: nn.Module) -> bool:
    """Put a BatchNorm behind every convolution of a model that has no norm; whether it did.

    C3D is of 2015 and has none; eleven layers deep, it takes many epochs to begin to learn. A
    convolution that is not trained keeps its weights, and gets none.
    """
    if any(isinstance(m, _ANY_NORM) for m in model.modules()):
        return False
    layers = [(n, m) for n, m in model.named_modules() if type(m) in _NORMS]
    convolutions = [(n, m) for n, m in layers if m.weight.requires_grad]
    for name, layer in convolutions:
        norm = _NORMS[type(layer)](layer.out_channels).to(layer.weight.device)
        _replace(model, name, _Normalised(layer, norm))
    return bool(convolutions)


def fold_(model: nn.Module) -> None:
    """Undo `normalise_`: the convolutions compute the same by themselves, in eval mode."""
    for name, pair in [(n, m) for n, m in model.named_modules() if isinstance(m, _Normalised)]:
        with torch.no_grad():
            _replace(model, name, fuse_conv_bn_eval(pair[0].eval(), pair[1].eval()))


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
