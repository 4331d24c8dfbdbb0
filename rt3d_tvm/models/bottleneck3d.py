"""Residual blocks of three convolutions, in the names of pytorchvideo: X3D's and R(2+1)D-50's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Steps = tuple[int, int, int]


class Branch(nn.Module):
    """1x1x1 convolution, the convolution ``across`` the clip, 1x1x1 convolution.

    ``norm`` is behind the middle one and holds its norm; ``activation`` follows it.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        filters: int,
        *,
        across: nn.Module,
        norm: nn.Module,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        self.conv_a = nn.Conv3d(channels, inner, 1, bias=False)
        self.norm_a = nn.BatchNorm3d(inner)
        self.act_a = nn.ReLU(inplace=True)
        self.conv_b = across
        self.norm_b = norm
        self.act_b = activation
        self.conv_c = nn.Conv3d(inner, filters, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(filters)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act_a(self.norm_a(self.conv_a(x)))
        x = self.act_b(self.norm_b(self.conv_b(x)))
        return self.norm_c(self.conv_c(x))


class ResidualBlock(nn.Module):
    """A branch and a shortcut, which has a norm where it changes the channels only.

    So it is published: a shortcut that does no more than take ``steps`` has none.
    """

    def __init__(self, branch: Branch, channels: int, filters: int, *, steps: Steps) -> None:
        super().__init__()
        self.branch1_conv = self.branch1_norm = None
        if channels != filters or steps != (1, 1, 1):
            self.branch1_conv = nn.Conv3d(channels, filters, 1, steps, bias=False)
        if channels != filters:
            self.branch1_norm = nn.BatchNorm3d(filters)
        self.branch2 = branch

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.branch1_conv is None else self.branch1_conv(x)
        if self.branch1_norm is not None:
            shortcut = self.branch1_norm(shortcut)
        return torch.relu(self.branch2(x) + shortcut)


class Stage(nn.Module):
    """Blocks in a row, of which the first takes the ``steps`` and changes the channels.

    ``branch`` makes one of the block with this number, from its channels and steps.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        count: int,
        branch: Callable[[int, int, Steps], Branch],
        *,
        steps: Steps,
    ) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList()
        for number in range(count):
            taken = steps if number == 0 else (1, 1, 1)
            block = branch(number, channels, taken)
            self.res_blocks.append(ResidualBlock(block, channels, filters, steps=taken))
            channels = filters

    def forward(self, x: Tensor) -> Tensor:
        for block in self.res_blocks:
            x = block(x)
        return x


def window_pooled(x: Tensor, window: Steps) -> Tensor:
    """Means over all places of a window; a smaller clip gets what fits.

    The published models slide it over larger clips, and average what comes of each place.
    """
    fitting = [min(side, most) for side, most in zip(x.shape[2:], window, strict=True)]
    return functional.avg_pool3d(x, fitting, stride=1)
