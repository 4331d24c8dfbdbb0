"""S3D (Xie et al. 2018): Inception with 3D convolutions factored into plane and frames."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Filters of an Inception block's branches: 1x1x1; 1x1x1 then 3x3x3; the same, narrower; pooling
# then 1x1x1. One tuple a stage, the stages being separated by poolings.
_STAGES = (
    ((64, (96, 128), (16, 32), 32), (128, (128, 192), (32, 96), 64)),
    (
        (192, (96, 208), (16, 48), 64),
        (160, (112, 224), (24, 64), 64),
        (128, (128, 256), (24, 64), 64),
        (112, (144, 288), (32, 64), 64),
        (256, (160, 320), (32, 128), 128),
    ),
    ((256, (160, 320), (32, 128), 128), (384, (192, 384), (48, 128), 128)),
)
# The published weights were trained with these; eps is part of the function they compute.
_BatchNorm = partial(nn.BatchNorm3d, eps=1e-3, momentum=1e-3)
_POOL_WINDOW = (2, 7, 7)


def _conv(channels: int, filters: int, kernel=1, stride=1, padding=0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, filters, kernel, stride, padding, bias=False),
        _BatchNorm(filters),
        nn.ReLU(inplace=True),
    )


def _factored(channels: int, filters: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """A cubic convolution as 1 x k x k over the plane, then k x 1 x 1 over the frames."""
    k, pad = kernel, kernel // 2
    return nn.Sequential(
        _conv(channels, filters, (1, k, k), (1, stride, stride), (0, pad, pad)),
        _conv(filters, filters, (k, 1, 1), (stride, 1, 1), (pad, 0, 0)),
    )


class _Inception(nn.Module):
    def __init__(
        self, channels: int, plain: int, wide: tuple[int, int], narrow: tuple[int, int], pooled: int
    ) -> None:
        super().__init__()
        self.branch0 = _conv(channels, plain)
        self.branch1 = nn.Sequential(_conv(channels, wide[0]), _factored(*wide, 3))
        self.branch2 = nn.Sequential(_conv(channels, narrow[0]), _factored(*narrow, 3))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), _conv(channels, pooled))
        self.filters = plain + wide[1] + narrow[1] + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)), 1)


class S3D(nn.Module):
    """S3D for clips of any size from 8 x 32 x 32: [batch, 3, frames, h, w] -> [batch, classes].

    Keys and shapes of the state dict are torchvision's, so that its published weights load
    unchanged (400 classes). ``width`` scales every filter count.
    """

    def __init__(self, *, num_classes: int = 400, width: float = 1.0) -> None:
        super().__init__()

        def scaled(filters: int) -> int:
            return max(1, round(filters * width))

        channels = scaled(192)
        layers = [
            _factored(3, scaled(64), 7, stride=2),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            _conv(scaled(64), scaled(64)),
            _factored(scaled(64), channels, 3),
        ]
        stage_pools = (
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.MaxPool3d(3, 2, 1),
            nn.MaxPool3d(2),
        )
        for pool, stage in zip(stage_pools, _STAGES, strict=True):
            layers.append(pool)
            for plain, wide, narrow, pooled in stage:
                block = _Inception(
                    channels,
                    scaled(plain),
                    tuple(map(scaled, wide)),
                    tuple(map(scaled, narrow)),
                    scaled(pooled),
                )
                layers.append(block)
                channels = block.filters
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Conv3d(channels, num_classes, 1))

    def forward(self, clip: Tensor) -> Tensor:
        x = self.features(clip)
        # The published model slides this window over longer clips and averages the scores after
        # it, which weights the ends less than a plain mean would; a smaller clip gets what fits.
        window = [min(side, most) for side, most in zip(x.shape[2:], _POOL_WINDOW, strict=True)]
        x = F.avg_pool3d(x, window, stride=1)
        return self.classifier(x).mean(dim=(2, 3, 4))
