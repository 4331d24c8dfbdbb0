"""ResNet-50 (He et al. 2016), v1.5: the 3x3 convolution of a block has the stride, not the 1x1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Blocks of each stage, and the filters of their 3x3 convolutions; a block gives four times as many.
_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
_EXPANSION = 4


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, middle: int, *, stride: int) -> None:
        super().__init__()
        filters = _EXPANSION * middle
        self.conv1 = nn.Conv2d(channels, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, filters, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(filters)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != filters:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + shortcut)


class ResNet50(nn.Module):
    """ResNet-50 for pictures of any size: [batch, 3, h, w] -> [batch, num_classes].

    Keys and shapes of the state dict are torchvision's, so that its published weights load
    unchanged (1000 classes). ``width`` scales every filter count.
    """

    def __init__(self, *, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        channels = max(1, round(64 * width))
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for index, (count, middle) in enumerate(_STAGES, start=1):
            middle, blocks = max(1, round(middle * width)), []
            for block in range(count):
                stride = 2 if index > 1 and block == 0 else 1
                blocks.append(_Bottleneck(channels, middle, stride=stride))
                channels = _EXPANSION * middle
            self.add_module(f"layer{index}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, picture: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(picture))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))
