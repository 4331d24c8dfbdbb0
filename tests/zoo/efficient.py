"""Video networks of few multiply-adds: depthwise, grouped and pointwise convolutions."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.blocks import Residual, SqueezeExcitation, classifier, conv_bn, shuffled


class X3D(nn.Module):
    """Feichtenhofer 2020: (1, 3, 3) and temporal depthwise stem, bottlenecks with SE and SiLU."""

    def __init__(self, stages=((8, 18, 2, 8), (16, 36, 1, 8)), *, stem=8, head=64, classes=10):
        """A stage: filters, filters inside, blocks, and what every other block squeezes to."""
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, stem, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False),
            conv_bn(stem, stem, (5, 1, 1), groups=stem),
        )
        blocks, channels = [], stem
        for filters, inner, count, squeezed in stages:
            for index in range(count):
                squeeze, stride = squeezed * (index % 2 == 0), 2 if index == 0 else 1
                blocks.append(self.block(channels, inner, filters, stride, squeeze))
                channels = filters
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            conv_bn(channels, inner, 1),
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(inner, head, 1, bias=False),
            nn.ReLU(),
        )
        self.projection = nn.Linear(head, classes)

    @staticmethod
    def block(channels, inner, filters, stride, squeezed):
        se = SqueezeExcitation(nn.Conv3d, inner, squeezed) if squeezed else nn.Identity()
        stride = (1, stride, stride)
        branch = nn.Sequential(
            conv_bn(channels, inner, 1),
            conv_bn(inner, inner, 3, stride=stride, groups=inner, act=None),
            se,
            nn.SiLU(),
            conv_bn(inner, filters, 1, act=None),
        )
        return Residual(branch, channels, filters, stride=stride)

    def forward(self, x):
        x = self.head(self.blocks(self.stem(x))).permute(0, 2, 3, 4, 1)
        return self.projection(x).mean((1, 2, 3))


class CausalConv3d(nn.Conv3d):
    """Pads in front of the first frame only."""

    def __init__(self, channels, filters, size, **options):
        super().__init__(
            channels, filters, size, padding=(0, *(n // 2 for n in size[1:])), **options
        )

    def forward(self, x):
        return super().forward(functional.pad(x, (0, 0, 0, 0, self.kernel_size[0] - 1, 0)))


class MoViNet(nn.Module):
    """Kondratyuk 2021: causal depthwise convolutions, SE of hard sigmoids, learned residuals."""

    class Block(nn.Module):
        def __init__(self, channels, inner, filters, size, stride=1, squeezed=8):
            super().__init__()
            self.expand = conv_bn(channels, inner, 1, act=nn.Hardswish)
            self.deep = nn.Sequential(
                CausalConv3d(inner, inner, size, stride=(1, stride, stride), groups=inner),
                nn.BatchNorm3d(inner),
                nn.Hardswish(),
            )
            self.se = SqueezeExcitation(
                nn.Conv3d, inner, squeezed, act=nn.Hardswish, gate=nn.Hardsigmoid
            )
            self.project = conv_bn(inner, filters, 1, act=None)
            self.alpha = nn.Parameter(torch.tensor(0.5))
            self.shortcut = nn.Identity()
            if stride > 1 or channels != filters:
                pool = nn.AvgPool3d((1, 3, 3), (1, stride, stride), (0, 1, 1))
                self.shortcut = nn.Sequential(
                    nn.Identity() if stride == 1 else pool,
                    conv_bn(channels, filters, 1, act=None),
                )

        def forward(self, x):
            branch = self.project(self.se(self.deep(self.expand(x))))
            return self.shortcut(x) + self.alpha * branch

    SMALL = ((24, 8, (1, 5, 5), 2, 8), (32, 16, (3, 3, 3), 1, 8), (48, 16, (5, 3, 3), 1, 8))

    def __init__(self, blocks=SMALL, *, widest=64, hidden=64, classes=10):
        """A block: filters inside, filters, window, stride, and what is squeezed to."""
        super().__init__()
        self.stem = conv_bn(3, 8, (1, 3, 3), stride=(1, 2, 2), act=nn.Hardswish)
        reads = (8, *(filters for _, filters, *_ in blocks))
        self.blocks = nn.Sequential(
            *(self.Block(read, *block) for read, block in zip(reads, blocks, strict=False))
        )
        self.head = nn.Sequential(
            conv_bn(reads[-1], widest, 1, act=nn.Hardswish),
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(widest, hidden, 1),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Conv3d(hidden, classes, 1),
        )

    def forward(self, x):
        return self.head(self.blocks(self.stem(x))).flatten(1)


def csn(stem=16, stages=((16, 32, 2), (32, 64, 1)), classes=10):
    """ir-CSN (Tran 2019): bottlenecks whose 3x3x3 is depthwise.

    A stage: filters inside, filters, blocks; the first block of all but the first has stride 2.
    """

    def block(channels, inner, filters, stride=1):
        branch = nn.Sequential(
            conv_bn(channels, inner, 1),
            conv_bn(inner, inner, 3, stride=stride, groups=inner),
            conv_bn(inner, filters, 1, act=None),
        )
        return Residual(branch, channels, filters, stride=stride)

    blocks, channels = [], stem
    for number, (inner, filters, count) in enumerate(stages):
        for index in range(count):
            blocks.append(block(channels, inner, filters, 2 if number and not index else 1))
            channels = filters
    return nn.Sequential(
        conv_bn(3, stem, (3, 7, 7), stride=(1, 2, 2)),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        *blocks,
        classifier(channels, classes),
    )


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's: half of the channels pass by, then all are shuffled."""

    def __init__(self, channels, filters, stride):
        super().__init__()
        self.stride, half = stride, filters // 2
        read = channels if stride == 2 else half
        self.right = nn.Sequential(
            conv_bn(read, half, 1),
            conv_bn(half, half, 3, stride=stride, groups=half, act=None),
            conv_bn(half, half, 1),
        )
        self.left = nn.Sequential(
            conv_bn(read, read, 3, stride=stride, groups=read, act=None),
            conv_bn(read, half, 1),
        )

    def forward(self, x):
        if self.stride == 2:
            parts = self.left(x), self.right(x)
        else:
            half = x.shape[1] // 2
            parts = x[:, :half], self.right(x[:, half:])
        return shuffled(torch.cat(parts, 1), 2)


def shufflenet_v2(stem=8, stages=((32, 3),), widest=64, classes=10):
    """Ma 2018, Koepueklue 2019 in 3D. A stage: filters and units."""
    units, channels = [], stem
    for filters, count in stages:
        for index in range(count):
            units.append(ShuffleUnit(channels, filters, 1 if index else 2))
            channels = filters
    return nn.Sequential(
        conv_bn(3, stem, 3, stride=(1, 2, 2)),
        nn.MaxPool3d(3, 2, 1),
        *units,
        conv_bn(channels, widest, 1),
        classifier(widest, classes),
    )


class InvertedResidual(nn.Module):
    """MobileNetV2's: wide inside, linear at its ends."""

    def __init__(self, channels, filters, stride, expand):
        super().__init__()
        inner = channels * expand
        self.joined = stride == (1, 1, 1) and channels == filters
        first = [conv_bn(channels, inner, 1, act=nn.ReLU6)] if expand > 1 else []
        self.layers = nn.Sequential(
            *first,
            conv_bn(inner, inner, 3, stride=stride, groups=inner, act=nn.ReLU6),
            conv_bn(inner, filters, 1, act=None),
        )

    def forward(self, x):
        return x + self.layers(x) if self.joined else self.layers(x)


def mobilenet_v2():
    """Sandler 2018, Koepueklue 2019 in 3D."""
    return nn.Sequential(
        conv_bn(3, 8, 3, stride=(1, 2, 2), act=nn.ReLU6),
        InvertedResidual(8, 8, (1, 1, 1), 1),
        InvertedResidual(8, 16, (2, 2, 2), 6),
        InvertedResidual(16, 16, (1, 1, 1), 6),
        conv_bn(16, 64, 1, act=nn.ReLU6),
        classifier(64),
    )


class Fire(nn.Module):
    """SqueezeNet's: a pointwise squeeze, then 1x1x1 and 3x3x3 side by side."""

    def __init__(self, channels, squeezed, filters, *, bypass=False):
        super().__init__()
        self.squeeze = conv_bn(channels, squeezed, 1)
        self.one = conv_bn(squeezed, filters, 1, act=None)
        self.three = conv_bn(squeezed, filters, 3, act=None)
        self.bypass = bypass

    def forward(self, x):
        squeezed = self.squeeze(x)
        out = torch.cat([self.one(squeezed), self.three(squeezed)], 1)
        return torch.relu(out + x if self.bypass else out)


def squeezenet():
    """Iandola 2016, Koepueklue 2019 in 3D: its classifier is a convolution."""
    return nn.Sequential(
        OrderedDict(
            stem=conv_bn(3, 16, 3, stride=(1, 2, 2)),
            pool=nn.MaxPool3d(3, 2, 1),
            fire2=Fire(16, 8, 16),
            fire3=Fire(32, 8, 16, bypass=True),
            pool3=nn.MaxPool3d(3, 2, 1),
            fire4=Fire(32, 16, 32),
            dropout=nn.Dropout(0.5),
            classifier=nn.Conv3d(64, 10, 1),
            relu=nn.ReLU(),
            mean=nn.AvgPool3d((2, 4, 4)),
            flat=nn.Flatten(),
        )
    )
