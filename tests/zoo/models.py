"""Published architectures, written out short and small: what users bring, by name.

`ZOO[name].build()` gives the model, seeded and in eval mode, and `.inputs()` what it takes:
arguments of forward(), as `example_inputs` are given. SlowFast takes one list of two clips.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.zoo import (
    attention,
    compact,
    efficient,
    frames,
    matching,
    mixed,
    residual,
    segmentation,
    video,
    volumes,
)
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
    "i3d_nonlocal": Architecture(residual.i3d_nonlocal, (_clip(),)),
    "ip_csn": Architecture(residual.ip_csn, (_clip(),)),
    "resnext3d": Architecture(residual.resnext3d, (_clip(),)),
    "preact_resnet3d": Architecture(residual.preact_resnet3d, (_clip(),)),
    "tpn": Architecture(residual.TPN, (_clip(),)),
    "artnet": Architecture(residual.artnet, (_clip(4),)),
    "t3d": Architecture(residual.t3d, (_clip(),)),
    "s3d_g": Architecture(residual.S3DG, (_clip(),)),
    "eco": Architecture(residual.ECO, ((1, 8, 3, 32, 32),)),
    "mobilenet_v1_3d": Architecture(compact.mobilenet_v1, (_clip(),)),
    "shufflenet_v1_3d": Architecture(compact.shufflenet_v1, (_clip(),)),
    "efficientnet_3d": Architecture(compact.efficientnet_3d, (_clip(8, 16, channels=1),)),
    "mfnet": Architecture(compact.mfnet, (_clip(),)),
    "tea": Architecture(frames.tea, ((1, 4, 3, 32, 32),)),
    "tanet": Architecture(frames.tanet, ((1, 4, 3, 32, 32),)),
    "lipnet": Architecture(frames.LipNet, (_clip(6),)),
    "audio_visual": Architecture(frames.AudioVisual, (_clip(), (1, 1, 1024))),
    "mvit": Architecture(attention.MViT, (_clip(),)),
    "video_swin": Architecture(attention.VideoSwin, (_clip(),)),
    "convnext3d": Architecture(attention.convnext3d, (_clip(),)),
    "unetr": Architecture(attention.UNETR, (_clip(8, 16, channels=1),)),
    "vnet": Architecture(segmentation.VNet, (_clip(8, 16, channels=1),)),
    "nnunet": Architecture(segmentation.NNUNet, (_clip(8, 16, channels=1),)),
    "attention_unet": Architecture(segmentation.AttentionUNet, (_clip(8, 16, channels=1),)),
    "highresnet": Architecture(segmentation.HighResNet, (_clip(8, 16, channels=1),)),
    "medicalnet": Architecture(segmentation.medicalnet, (_clip(8, 32, channels=1),)),
    "pointpillars": Architecture(segmentation.PointPillars, ((1, 16, 32, 32),)),
    "gcnet": Architecture(matching.GCNet, ((1, 3, 16, 32), (1, 3, 16, 32))),
    "gwcnet": Architecture(matching.GwcNet, ((1, 3, 16, 32), (1, 3, 16, 32))),
    "voxelmorph": Architecture(
        matching.VoxelMorph, (_clip(8, 16, channels=1), _clip(8, 16, channels=1))
    ),
    "video_super_resolution": Architecture(matching.VideoSuperResolution, (_clip(5, 16),)),
    "memory_autoencoder": Architecture(matching.Autoencoder, (_clip(8, 16, channels=1),)),
    "voxnet": Architecture(matching.voxnet, (_clip(16, 16, channels=1),)),
    "resnet50": Architecture(mixed.resnet50, ((1, 3, 32, 32),)),
    "mobilenet_v2": Architecture(mixed.mobilenet_v2, ((1, 3, 32, 32),)),
}
