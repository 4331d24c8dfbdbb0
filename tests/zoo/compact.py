"""More video networks of few multiply-adds."""

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.blocks import SqueezeExcitation, classifier, conv_bn, shuffled


def mobilenet_v1():
    """Howard 2017, Koepueklue 2019 in 3D: depthwise, then pointwise."""

    def pair(channels, filters, stride):
        return [
            conv_bn(channels, channels, 3, stride=stride, groups=channels),
            conv_bn(channels, filters, 1),
        ]

    return nn.Sequential(
        conv_bn(3, 8, 3, stride=(1, 2, 2)),
        *pair(8, 16, 1),
        *pair(16, 32, 2),
        *pair(32, 32, 1),
        *pair(32, 64, 2),
        classifier(64),
    )


class ShuffleUnit(nn.Module):
    """Zhang 2018: pointwise convolutions of several groups, shuffled between; where it halves, the
    mean of its input stands beside it.
    """

    def __init__(self, channels, filters, groups, stride):
        super().__init__()
        self.groups, self.stride, inner = groups, stride, filters // 4
        filters = filters - channels if stride > 1 else filters
        self.first = conv_bn(channels, inner, 1, groups=groups)
        self.second = nn.Sequential(
            conv_bn(inner, inner, 3, stride=stride, groups=inner, act=None),
            conv_bn(inner, filters, 1, groups=groups, act=None),
        )

    def forward(self, x):
        y = self.second(shuffled(self.first(x), self.groups))
        if self.stride == 1:
            return torch.relu(x + y)
        beside = functional.avg_pool3d(x, (2, 3, 3), 2, (0, 1, 1))
        return torch.relu(torch.cat([beside, y], 1))


def shufflenet_v1():
    """Zhang 2018, Koepueklue 2019 in 3D; three groups, so that no block of channels fits."""
    return nn.Sequential(
        conv_bn(3, 12, 3, stride=(1, 2, 2)),
        nn.MaxPool3d(3, 2, 1),
        ShuffleUnit(12, 48, 3, 2),
        ShuffleUnit(48, 48, 3, 1),
        classifier(48),
    )


class MBConv3d(nn.Module):
    """EfficientNet's in 3D: expand, depthwise, SE, project."""

    def __init__(self, channels, filters, *, expand, size, stride):
        super().__init__()
        inner = channels * expand
        self.joined = stride == 1 and channels == filters
        first = [conv_bn(channels, inner, 1, act=nn.SiLU)] if expand > 1 else []
        self.layers = nn.Sequential(
            *first,
            conv_bn(inner, inner, size, stride=stride, groups=inner, act=nn.SiLU),
            SqueezeExcitation(nn.Conv3d, inner, max(channels // 4, 4), act=nn.SiLU),
            conv_bn(inner, filters, 1, act=None),
        )

    def forward(self, x):
        return x + self.layers(x) if self.joined else self.layers(x)


def efficientnet_3d():
    """Tan 2019, in 3D as MONAI and others have it."""
    return nn.Sequential(
        conv_bn(1, 16, 3, stride=2, act=nn.SiLU),
        MBConv3d(16, 8, expand=1, size=3, stride=1),
        MBConv3d(8, 16, expand=6, size=3, stride=2),
        MBConv3d(16, 16, expand=6, size=5, stride=1),
        conv_bn(16, 64, 1, act=nn.SiLU),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(64, 10),
    )


class MultiFibre(nn.Module):
    """Chen 2018 (MF-Net): pointwise convolutions that mix conv groups, then grouped ones."""

    def __init__(self, channels, filters, groups, stride):
        super().__init__()
        inner = filters // 2
        self.mix = nn.Sequential(
            *self.layer(channels, channels // 4, 1), *self.layer(channels // 4, channels, 1)
        )
        self.convs = nn.Sequential(
            *self.layer(channels, inner, 3, groups=groups, stride=stride),
            *self.layer(inner, filters, (1, 3, 3), groups=groups),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or channels != filters:
            self.shortcut = nn.Sequential(*self.layer(channels, filters, 1, stride=stride))

    @staticmethod
    def layer(channels, filters, size, *, groups=1, stride=1):
        padding = tuple(n // 2 for n in (size if isinstance(size, tuple) else (size,) * 3))
        return [
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            nn.Conv3d(channels, filters, size, stride, padding, groups=groups, bias=False),
        ]

    def forward(self, x):
        return self.convs(x + self.mix(x)) + self.shortcut(x)


def mfnet():
    return nn.Sequential(
        conv_bn(3, 16, (3, 5, 5), stride=(1, 2, 2)),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        MultiFibre(16, 32, 4, (2, 1, 1)),
        MultiFibre(32, 32, 4, 1),
        MultiFibre(32, 64, 4, 2),
        nn.BatchNorm3d(64),
        nn.ReLU(),
        classifier(64),
    )
