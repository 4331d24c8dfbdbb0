"""X3D (Feichtenhofer 2020): a small network, expanded along frames, plane, width and depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt3d_tvm.models.bottleneck3d import Branch, Stage, Steps, window_pooled

_STEM = 24
# Filters of a stage, filters inside its blocks, what every other block squeezes to.
_STAGES = ((24, 54, 8), (48, 108, 8), (96, 216, 16), (192, 432, 32))
_HIDDEN = 2048


class _Factor(nn.Module):
    """A factor for each channel, from the means of all of them (squeeze and excitation)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv3d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv3d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.block(x.mean(dim=(2, 3, 4), keepdim=True))


class _Factored(nn.Module):
    """The stem's convolution: over the plane, then over the frames of each channel.

    Their names say the opposite, as those of the published weights do.
    """

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.conv_t = nn.Conv3d(3, filters, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.conv_xy = nn.Conv3d(
            filters, filters, (5, 1, 1), padding=(2, 0, 0), groups=filters, bias=False
        )

    def forward(self, clip: Tensor) -> Tensor:
        return self.conv_xy(self.conv_t(clip))


class _Stem(nn.Module):
    def __init__(self, filters: int) -> None:
        super().__init__()
        self.conv = _Factored(filters)
        self.norm = nn.BatchNorm3d(filters)

    def forward(self, clip: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(clip)))


class _Pool(nn.Module):
    """Means over a window of the features, between two convolutions of points."""

    def __init__(self, channels: int, inner: int, hidden: int, window: Steps) -> None:
        super().__init__()
        self.window = window
        self.pre_conv = nn.Conv3d(channels, inner, 1, bias=False)
        self.pre_norm = nn.BatchNorm3d(inner)
        self.post_conv = nn.Conv3d(inner, hidden, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.pre_norm(self.pre_conv(x)))
        return torch.relu(self.post_conv(window_pooled(x, self.window)))


class _Head(nn.Module):
    def __init__(self, pool: _Pool, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.pool = pool
        self.dropout = nn.Dropout(0.5)
        self.proj = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.dropout(self.pool(x).mean(dim=(2, 3, 4))))


class X3D(nn.Module):
    """X3D for clips of any size: [batch, 3, frames, h, w] -> [batch, num_classes].

    Keys and shapes of the state dict are pytorchvideo's, so that its published weights load
    unchanged (400 classes). ``depths`` are the blocks of each stage, ``window`` is what the last
    pooling averages over: the features of a clip of the published size. ``width`` scales every
    filter count.
    """

    def __init__(
        self,
        *,
        depths: tuple[int, ...],
        window: Steps,
        num_classes: int = 400,
        width: float = 1.0,
    ) -> None:
        super().__init__()

        def scaled(filters: int) -> int:
            return max(1, round(filters * width))

        channels = scaled(_STEM)
        self.blocks = nn.ModuleList([_Stem(channels)])
        for count, sizes in zip(depths, _STAGES, strict=True):
            filters, inner, squeezed = map(scaled, sizes)
            self.blocks.append(_stage(channels, inner, filters, squeezed, count))
            channels = filters
        hidden = scaled(_HIDDEN)
        self.blocks.append(_Head(_Pool(channels, inner, hidden, window), hidden, num_classes))

    def forward(self, clip: Tensor) -> Tensor:
        for block in self.blocks:
            clip = block(clip)
        return clip


def _stage(channels: int, inner: int, filters: int, squeezed: int, count: int) -> Stage:
    def branch(number: int, channels: int, steps: Steps) -> Branch:
        return Branch(
            channels,
            inner,
            filters,
            across=nn.Conv3d(inner, inner, 3, steps, 1, groups=inner, bias=False),
            norm=nn.Sequential(
                nn.BatchNorm3d(inner),
                _Factor(inner, squeezed) if number % 2 == 0 else nn.Identity(),
            ),
            activation=nn.SiLU(inplace=True),
        )

    return Stage(channels, filters, count, branch, steps=(1, 2, 2))
