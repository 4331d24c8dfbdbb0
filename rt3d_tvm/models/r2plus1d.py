"""R(2+1)D-18 (Tran et al. 2018): a residual network whose 3D convolutions are factored."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STAGE_FILTERS = (64, 128, 256, 512)
_BLOCKS_PER_STAGE = 2
_STEM_MIDDLE = 45


def _factored(channels: int, middle: int, filters: int, *, stride: int = 1) -> nn.Sequential:
    """A 3x3x3 convolution as 1x3x3 over the plane, then 3x1x1 over the frames."""
    return nn.Sequential(
        nn.Conv3d(channels, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, filters, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, filters: int, *, stride: int) -> None:
        super().__init__()
        # As many weights as the 3x3x3 convolution that is factored; the block's second pair has
        # the same middle, because the published weights have (hence 230, 460 and 921 channels).
        middle = max(1, 27 * channels * filters // (9 * channels + 3 * filters))
        self.conv1 = nn.Sequential(
            _factored(channels, middle, filters, stride=stride),
            nn.BatchNorm3d(filters),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            _factored(filters, middle, filters),
            nn.BatchNorm3d(filters),
        )
        self.downsample = None
        if stride != 1 or channels != filters:
            self.downsample = nn.Sequential(
                nn.Conv3d(channels, filters, 1, stride, bias=False),
                nn.BatchNorm3d(filters),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.conv2(self.conv1(x)) + shortcut)


class R2Plus1D18(nn.Module):
    """R(2+1)D-18 for clips of any size: [batch, 3, frames, h, w] -> [batch, num_classes].

    Keys and shapes of the state dict are torchvision's, so that its published weights load
    unchanged (400 classes). ``width`` scales every filter count.
    """

    def __init__(self, *, num_classes: int = 101, width: float = 1.0) -> None:
        super().__init__()
        stages = [max(1, round(filters * width)) for filters in _STAGE_FILTERS]
        middle = max(1, round(_STEM_MIDDLE * width))
        channels = stages[0]
        self.stem = nn.Sequential(
            nn.Conv3d(3, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, channels, (3, 1, 1), 1, (1, 0, 0), bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
        )
        for index, filters in enumerate(stages, start=1):
            blocks = []
            for block in range(_BLOCKS_PER_STAGE):
                stride = 2 if index > 1 and block == 0 else 1
                blocks.append(_ResidualBlock(channels, filters, stride=stride))
                channels = filters
            self.add_module(f"layer{index}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(clip)))))
        return self.fc(x.mean(dim=(2, 3, 4)))
