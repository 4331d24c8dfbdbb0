"""MobileNet-V2 (Sandler et al. 2018): depthwise convolutions between thin 1x1 ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Expansion, filters, blocks, and stride of the first of them.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM, _LAST = 32, 1280


def _conv(channels: int, filters: int, kernel: int, *, stride: int = 1, groups: int = 1):
    return nn.Sequential(
        nn.Conv2d(channels, filters, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU6(inplace=True),
    )


class _InvertedResidual(nn.Module):
    def __init__(self, channels: int, filters: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        middle = expansion * channels
        layers = [] if expansion == 1 else [_conv(channels, middle, 1)]
        layers += [
            _conv(middle, middle, 3, stride=stride, groups=middle),
            nn.Conv2d(middle, filters, 1, bias=False),
            nn.BatchNorm2d(filters),
        ]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and channels == filters

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNet-V2 for pictures of any size: [batch, 3, h, w] -> [batch, num_classes].

    Keys and shapes of the state dict are torchvision's, so that its published weights load
    unchanged (1000 classes). ``width`` scales every filter count.
    """

    def __init__(self, *, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()

        def scaled(filters: int) -> int:
            return max(1, round(filters * width))

        channels = scaled(_STEM)
        layers: list[nn.Module] = [_conv(3, channels, 3, stride=2)]
        for expansion, filters, count, stride in _STAGES:
            for block in range(count):
                layers.append(
                    _InvertedResidual(
                        channels,
                        scaled(filters),
                        expansion=expansion,
                        stride=stride if block == 0 else 1,
                    )
                )
                channels = scaled(filters)
        layers.append(_conv(channels, scaled(_LAST), 1))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(scaled(_LAST), num_classes))

    def forward(self, picture: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(picture)), 1))
