"""The convolutions of a network, from its definition alone: no weights, no arithmetic."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from rt3d_tvm.conv_shape import ConvShape
from rt3d_tvm.models import build_model, model_spec


def conv_shapes(name: str) -> Counter[ConvShape]:
    """How often each shape of ungrouped convolution occurs in a model of `MODELS`.

    Those of pictures have depth 1. Convolutions that are the classifier in disguise are left out,
    as pruning leaves them out. InputError for an unknown name.
    """
    spec = model_spec(name)
    found: Counter[ConvShape] = Counter()
    with torch.device("meta"):
        model = build_model(name)
        clip = torch.empty(spec.input_shape)

    def volume(plane: tuple[int, ...], along_frames: int) -> tuple[int, ...]:
        """Three axes, of which a convolution of pictures has the last two."""
        return plane if len(plane) == 3 else (along_frames, *plane)

    def note(
        module: nn.Conv2d | nn.Conv3d, inputs: tuple[torch.Tensor], _output: torch.Tensor
    ) -> None:
        flat = isinstance(module, nn.Conv2d)
        one, none = ((1,), (0,)) if flat else ((), ())
        found[
            ConvShape(
                filters=module.out_channels,
                channels=module.in_channels,
                kernel=(*one, *module.kernel_size),
                data=(*one, *inputs[0].shape[2:]),
                stride=(*one, *module.stride),
                padding=(*none, *module.padding),
            )
        ] += 1

    for path, module in model.named_modules():
        counted = isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.groups == 1
        if counted and path not in spec.classifiers:
            module.register_forward_hook(note)
    with torch.no_grad():
        model(clip)
    return found
