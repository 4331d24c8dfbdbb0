"""Published architectures, written out short and small: what users bring, by name.

`ZOO[name].build()` gives the model, seeded and in eval mode, and `.inputs()` what it takes:
arguments of forward(), as `example_inputs` are given. SlowFast takes one list of two clips.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.zoo import efficient, mixed, video, volumes
from tests.zoo.blocks import seeded_


@dataclass(frozen=True)
class Architecture:
    """``make`` without arguments, and the shapes of its inputs; a list of them is one argument."""

    make: Callable[[], nn.Module]
    shapes: tuple[Any, ...]

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return seeded_(self.make()).eval()

    def inputs(self) -> tuple[Any, ...]:
        """Noise, the same each time."""
        generator = torch.Generator().manual_seed(1)

        def made(shape):
            if isinstance(shape, list):
                return [made(each) for each in shape]
            return torch.randn(shape, generator=generator)

        return tuple(made(shape) for shape in self.shapes)


def _clip(frames: int = 8, size: int = 32, *, channels: int = 3) -> tuple[int, ...]:
    return (1, channels, frames, size, size)


ZOO = {
    "x3d": Architecture(efficient.X3D, (_clip(),)),
    "movinet": Architecture(efficient.MoViNet, (_clip(),)),
    "ir_csn": Architecture(efficient.csn, (_clip(),)),
    "r3d_18": Architecture(video.r3d_18, (_clip(),)),
    "mc3_18": Architecture(video.mc3_18, (_clip(),)),
    "p3d": Architecture(video.p3d, (_clip(),)),
    "i3d": Architecture(video.I3D, (_clip(),)),
    "densenet3d": Architecture(video.densenet, (_clip(),)),
    "slowfast": Architecture(video.SlowFast, ([_clip(2), _clip(8)],)),
    "shufflenet_v2_3d": Architecture(efficient.shufflenet_v2, (_clip(),)),
    "mobilenet_v2_3d": Architecture(efficient.mobilenet_v2, (_clip(),)),
    "squeezenet3d": Architecture(efficient.squeezenet, (_clip(),)),
    "unet3d": Architecture(volumes.UNet, (_clip(8, 16, channels=1),)),
    "segresnet": Architecture(volumes.SegResNet, (_clip(8, 16, channels=4),)),
    "psmnet": Architecture(volumes.PSMNet, ((1, 3, 32, 64), (1, 3, 32, 64))),
    "lipreading": Architecture(mixed.Lipreading, (_clip(6, 32, channels=1),)),
    "tsm": Architecture(mixed.TSM, ((1, 4, 3, 32, 32),)),
    "c3d_transformer": Architecture(mixed.C3DTransformer, (_clip(),)),
    "unet2d": Architecture(mixed.UNet2d, ((1, 3, 32, 32),)),
    "efficientnet_b0": Architecture(mixed.efficientnet_b0, ((1, 3, 32, 32),)),
    "mobilenet_v3": Architecture(mixed.mobilenet_v3, ((1, 3, 32, 32),)),
}
