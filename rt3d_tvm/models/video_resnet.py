"""R3D-18 and MC3-18 (Tran et al. 2018): residual networks of whole 3D convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STAGE_FILTERS = (64, 128, 256, 512)
_BLOCKS_PER_STAGE = 2


def _conv(channels: int, filters: int, *, depth: int, stride: int) -> nn.Conv3d:
    """A window of 3x3 over ``depth`` frames; one of a single frame keeps all frames."""
    steps = (stride if depth > 1 else 1, stride, stride)
    return nn.Conv3d(channels, filters, (depth, 3, 3), steps, (depth // 2, 1, 1), bias=False)


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, filters: int, *, depth: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            _conv(channels, filters, depth=depth, stride=stride),
            nn.BatchNorm3d(filters),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            _conv(filters, filters, depth=depth, stride=1),
            nn.BatchNorm3d(filters),
        )
        self.downsample = None
        if stride != 1 or channels != filters:
            steps = (stride if depth > 1 else 1, stride, stride)
            self.downsample = nn.Sequential(
                nn.Conv3d(channels, filters, 1, steps, bias=False),
                nn.BatchNorm3d(filters),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.conv2(self.conv1(x)) + shortcut)


class VideoResNet18(nn.Module):
    """A network for clips of any size: [batch, 3, frames, h, w] -> [batch, num_classes].

    ``depths`` are the frames of each stage's windows: R3D-18 has 3 in all, MC3-18 3 in the first
    and 1 in the others. Keys and shapes of the state dict are torchvision's, so that its published
    weights load unchanged (400 classes). ``width`` scales every filter count.
    """

    def __init__(
        self, *, depths: tuple[int, ...], num_classes: int = 400, width: float = 1.0
    ) -> None:
        super().__init__()
        stages = [max(1, round(filters * width)) for filters in _STAGE_FILTERS]
        channels = stages[0]
        self.stem = nn.Sequential(
            nn.Conv3d(3, channels, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
        )
        for index, (filters, depth) in enumerate(zip(stages, depths, strict=True), start=1):
            blocks = []
            for block in range(_BLOCKS_PER_STAGE):
                stride = 2 if index > 1 and block == 0 else 1
                blocks.append(_ResidualBlock(channels, filters, depth=depth, stride=stride))
                channels = filters
            self.add_module(f"layer{index}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(clip)))))
        return self.fc(x.mean(dim=(2, 3, 4)))
