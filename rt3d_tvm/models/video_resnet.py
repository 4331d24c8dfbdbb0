"""R3D-18 and MC3-18 (Tran et al. 2018), and what R(2+1)D shares with them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Of channels, filters and a stride: one of a block's two convolutions.
Convolution = Callable[[int, int, int], nn.Module]


def stage_filters(width: float) -> list[int]:
    """The filters of the four stages."""
    return [max(1, round(filters * width)) for filters in (64, 128, 256, 512)]


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, which takes steps of ``frames`` along the frames.

    ``shortcut`` makes its convolution where it needs one, by default a plain one of 1x1x1.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        conv: Convolution,
        *,
        stride: int,
        frames: int,
        shortcut: Convolution | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            conv(channels, filters, stride), nn.BatchNorm3d(filters), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(conv(filters, filters, 1), nn.BatchNorm3d(filters))
        self.downsample = None
        if stride != 1 or channels != filters:
            if shortcut is None:
                steps = (frames, stride, stride)
                across: nn.Module = nn.Conv3d(channels, filters, 1, steps, bias=False)
            else:
                across = shortcut(channels, filters, stride)
            self.downsample = nn.Sequential(across, nn.BatchNorm3d(filters))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.conv2(self.conv1(x)) + shortcut)


class ResidualNetwork(nn.Module):
    """A network for clips of any size: [batch, 3, frames, h, w] -> [batch, num_classes].

    ``block`` makes one of the stage with this index, from its channels, filters and stride; a
    stage has so many as ``blocks`` says. Keys and shapes of the state dict are torchvision's, so
    that its published weights load unchanged (400 classes).
    """

    def __init__(
        self,
        stem: nn.Sequential,
        block: Callable[[int, int, int, int], ResidualBlock],
        *,
        num_classes: int,
        width: float,
        blocks: tuple[int, ...] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        stages = stage_filters(width)
        channels = stages[0]
        self.stem = stem
        for index, (filters, count) in enumerate(zip(stages, blocks, strict=True)):
            stage = []
            for number in range(count):
                stride = 2 if index > 0 and number == 0 else 1
                stage.append(block(index, channels, filters, stride))
                channels = filters
            self.add_module(f"layer{index + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(clip)))))
        return self.fc(x.mean(dim=(2, 3, 4)))


class VideoResNet18(ResidualNetwork):
    """Whole convolutions of 3x3 over ``depths`` frames, one for each stage.

    R3D-18 has 3 in all stages, MC3-18 3 in the first and 1 in the others. ``width`` scales every
    filter count.
    """

    def __init__(
        self, *, depths: tuple[int, ...], num_classes: int = 400, width: float = 1.0
    ) -> None:
        channels = stage_filters(width)[0]
        stem = nn.Sequential(
            nn.Conv3d(3, channels, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
        )

        def block(index: int, channels: int, filters: int, stride: int) -> ResidualBlock:
            depth = depths[index]

            def conv(channels: int, filters: int, stride: int) -> nn.Conv3d:
                steps = (_frames(depth, stride), stride, stride)
                padding = (depth // 2, 1, 1)
                return nn.Conv3d(channels, filters, (depth, 3, 3), steps, padding, bias=False)

            frames = _frames(depth, stride)
            return ResidualBlock(channels, filters, conv, stride=stride, frames=frames)

        super().__init__(stem, block, num_classes=num_classes, width=width)


def _frames(depth: int, stride: int) -> int:
    """The step along the frames: windows of a single frame keep them all."""
    return stride if depth > 1 else 1
