"""Architectures of the zoo at the size that they were published at: what speed is measured on."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from rt3d_tvm.models import build_model
from tests.zoo import efficient, mixed, video, volumes
from tests.zoo.blocks import conv_bn
from tests.zoo.models import Architecture

# Filters, filters inside, blocks, what squeeze-and-excitation squeezes to.
X3D_STAGES = ((24, 54, 3, 8), (48, 108, 5, 8), (96, 216, 11, 16), (192, 432, 7, 32))
# Filters inside, filters, window, stride, what squeeze-and-excitation squeezes to.
MOVINET_A0 = (
    (24, 8, (1, 5, 5), 2, 8),
    (80, 32, (3, 3, 3), 2, 24),
    (80, 32, (3, 3, 3), 1, 24),
    (80, 32, (3, 3, 3), 1, 24),
    (184, 56, (5, 3, 3), 2, 48),
    (112, 56, (3, 3, 3), 1, 32),
    (184, 56, (3, 3, 3), 1, 48),
    (184, 56, (5, 3, 3), 1, 48),
    *[(184, 56, (3, 3, 3), 1, 48)] * 3,
    (384, 104, (5, 3, 3), 2, 96),
    (280, 104, (1, 5, 5), 1, 72),
    (280, 104, (1, 5, 5), 1, 72),
    (344, 104, (1, 5, 5), 1, 88),
)
# Filters inside, filters, blocks.
RESNET_50 = ((64, 256, 3), (128, 512, 4), (256, 1024, 6), (512, 2048, 3))
# Filters, filters inside, blocks, the slow path's frames per window, stride.
SLOWFAST_R50 = ((256, 64, 3, 1, 1), (512, 128, 4, 1, 2), (1024, 256, 6, 3, 2), (2048, 512, 3, 3, 2))
RESNET_18 = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))


class StackedHourglass(nn.Module):
    """PSMNet's 3D part: a cost volume through three hourglasses to the expected disparity."""

    def __init__(self, channels: int = 32, disparities: int = 192) -> None:
        super().__init__()
        self.disparities = disparities
        self.first = nn.Sequential(conv_bn(2 * channels, channels, 3), self.conv(channels))
        self.second = nn.Sequential(self.conv(channels), conv_bn(channels, channels, 3, act=None))
        self.hourglasses = nn.ModuleList(volumes.Hourglass(channels) for _ in range(3))
        self.classify = nn.ModuleList(
            nn.Sequential(self.conv(channels), nn.Conv3d(channels, 1, 3, padding=1, bias=False))
            for _ in range(3)
        )

    @staticmethod
    def conv(channels: int) -> nn.Sequential:
        return conv_bn(channels, channels, 3)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        cost = self.first(volume)
        cost = out = self.second(cost) + cost
        first = before = logits = None
        for hourglass, classify in zip(self.hourglasses, self.classify, strict=True):
            out, between, before = hourglass.all_parts(out, first, before)
            first = between if first is None else first
            out = out + cost
            logits = classify(out) if logits is None else classify(out) + logits
        size = (self.disparities, *(4 * n for n in volume.shape[3:]))
        logits = functional.interpolate(logits, size, mode="trilinear", align_corners=False)
        share = torch.softmax(logits.squeeze(1), 1)
        values = torch.arange(self.disparities, dtype=share.dtype, device=share.device)
        return (share * values.view(1, -1, 1, 1)).sum(1)


class Stereo(Architecture):
    """Small logits: else the softmax over disparities picks one, and hides what it is of."""

    def build(self) -> nn.Module:
        model = super().build()
        for classify in model.classify:
            classify[-1].weight.data *= 0.01
        return model


def _clip(frames: int, size: int, channels: int = 3) -> tuple[int, ...]:
    return (1, channels, frames, size, size)


PUBLISHED = {
    "r3d_18": Architecture(partial(build_model, "r3d"), (_clip(16, 112),)),
    "x3d_s": Architecture(
        partial(efficient.X3D, X3D_STAGES, stem=24, head=2048, classes=400), (_clip(13, 182),)
    ),
    "movinet_a0": Architecture(
        partial(efficient.MoViNet, MOVINET_A0, widest=480, hidden=2048, classes=600),
        (_clip(50, 172),),
    ),
    "ir_csn_50": Architecture(
        partial(efficient.csn, 64, RESNET_50, classes=400), (_clip(32, 224),)
    ),
    "slowfast_r50": Architecture(
        partial(video.SlowFast, SLOWFAST_R50, stem=64, ratio=8, lateral=7, classes=400),
        ([_clip(8, 256), _clip(32, 256)],),
    ),
    "shufflenet_v2_3d": Architecture(
        partial(efficient.shufflenet_v2, 24, ((116, 4), (232, 8), (464, 4)), 1024, 400),
        (_clip(16, 112),),
    ),
    "unet3d": Architecture(
        partial(volumes.UNet, (16, 32, 64, 128, 256), classes=2), ((1, 1, 32, 64, 64),)
    ),
    "segresnet": Architecture(
        partial(volumes.SegResNet, 16, blocks=(1, 2, 2, 4), groups=8), ((1, 4, 96, 96, 96),)
    ),
    "psmnet_3d": Stereo(StackedHourglass, ((1, 64, 48, 64, 128),)),
    "lipreading": Architecture(
        partial(mixed.Lipreading, 64, trunk=RESNET_18, frames=(768,) * 4, classes=500),
        (_clip(29, 88, 1),),
    ),
}
