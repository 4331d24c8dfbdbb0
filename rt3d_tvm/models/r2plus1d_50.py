"""R(2+1)D-50 as pytorchvideo publishes it: blocks of three convolutions, one of them factored."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt3d_tvm.models.bottleneck3d import Branch, Stage, Steps, window_pooled

_STEM = 64
# Filters inside the blocks of a stage, which give four times as many; their number; the step along
# the frames.
_STAGES = ((64, 3, 1), (128, 4, 1), (256, 6, 2), (512, 3, 2))
_EXPANSION = 4
# The features of 16 frames at 224.
_WINDOW = (4, 7, 7)


class _Factored(nn.Module):
    """A 3x3x3 convolution as 3x1x1 over the frames, then 1x3x3 over the plane."""

    def __init__(self, channels: int, steps: Steps) -> None:
        super().__init__()
        frames, *plane = steps
        self.conv_t = nn.Conv3d(
            channels, channels, (3, 1, 1), (frames, 1, 1), (1, 0, 0), bias=False
        )
        self.norm = nn.BatchNorm3d(channels)
        self.conv_xy = nn.Conv3d(channels, channels, (1, 3, 3), (1, *plane), (0, 1, 1), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_xy(torch.relu(self.norm(self.conv_t(x))))


class _Stem(nn.Module):
    def __init__(self, filters: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, filters, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.norm = nn.BatchNorm3d(filters)

    def forward(self, clip: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(clip)))


class _Head(nn.Module):
    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.proj = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.dropout(window_pooled(x, _WINDOW).mean(dim=(2, 3, 4))))


class R2Plus1D50(nn.Module):
    """R(2+1)D-50 for clips of any size: [batch, 3, frames, h, w] -> [batch, num_classes].

    Keys and shapes of the state dict are pytorchvideo's, so that its published weights load
    unchanged (400 classes). ``width`` scales every filter count.
    """

    def __init__(self, *, num_classes: int = 400, width: float = 1.0) -> None:
        super().__init__()
        channels = max(1, round(_STEM * width))
        self.blocks = nn.ModuleList([_Stem(channels)])
        for inner, count, frames in _STAGES:
            inner = max(1, round(inner * width))
            self.blocks.append(_stage(channels, inner, count, frames))
            channels = _EXPANSION * inner
        self.blocks.append(_Head(channels, num_classes))

    def forward(self, clip: Tensor) -> Tensor:
        for block in self.blocks:
            clip = block(clip)
        return clip


def _stage(channels: int, inner: int, count: int, frames: int) -> Stage:
    def branch(_number: int, channels: int, steps: Steps) -> Branch:
        return Branch(
            channels,
            inner,
            _EXPANSION * inner,
            across=_Factored(inner, steps),
            norm=nn.BatchNorm3d(inner),
            activation=nn.ReLU(inplace=True),
        )

    return Stage(channels, _EXPANSION * inner, count, branch, steps=(frames, 2, 2))
