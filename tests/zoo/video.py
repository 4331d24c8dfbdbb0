"""Video networks of full 3D convolutions, and of ones in time and in space."""

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.blocks import Residual, classifier, conv_bn, same_padded


def _resnet18(block):
    """torchvision's VideoResNet of 16 channels: BasicStem, four stages, fc."""
    stages, channels = [], 16
    for number, filters in enumerate((16, 32, 64, 64)):
        stride = 1 if number == 0 else 2
        stages += [block(channels, filters, stride, number), block(filters, filters, 1, number)]
        channels = filters
    stem = conv_bn(3, 16, (3, 7, 7), stride=(1, 2, 2))
    return nn.Sequential(stem, *stages, classifier(channels))


def _basic(channels, filters, stride, size):
    branch = nn.Sequential(
        conv_bn(channels, filters, size, stride=stride), conv_bn(filters, filters, size, act=None)
    )
    return Residual(branch, channels, filters, stride=stride)


def r3d_18():
    """Tran 2018: 3x3x3 throughout."""
    return _resnet18(lambda channels, filters, stride, _: _basic(channels, filters, stride, 3))


def mc3_18():
    """Tran 2018: 3x3x3 in the first stage, 1x3x3 after it, where frames stay as many."""

    def block(channels, filters, stride, stage):
        if stage == 0:
            return _basic(channels, filters, stride, 3)
        return _basic(channels, filters, (1, stride, stride), (1, 3, 3))

    return _resnet18(block)


class P3DBottleneck(nn.Module):
    """Qiu 2017: (1, 3, 3) and (3, 1, 1) in a row (A), side by side (B), or both (C)."""

    def __init__(self, kind, channels, inner):
        super().__init__()
        self.kind = kind
        self.reduce = conv_bn(channels, inner, 1)
        self.space = conv_bn(inner, inner, (1, 3, 3))
        self.time = conv_bn(inner, inner, (3, 1, 1))
        self.expand = conv_bn(inner, channels, 1, act=None)

    def forward(self, x):
        y = self.reduce(x)
        if self.kind == "A":
            y = self.time(self.space(y))
        elif self.kind == "B":
            y = self.space(y) + self.time(y)
        else:
            y = self.space(y)
            y = y + self.time(y)
        return torch.relu(x + self.expand(y))


def p3d():
    return nn.Sequential(
        conv_bn(3, 32, (1, 7, 7), stride=(1, 2, 2)),
        nn.MaxPool3d((2, 3, 3), 2, (0, 1, 1)),
        *(P3DBottleneck(kind, 32, 16) for kind in "ABC"),
        nn.MaxPool3d((2, 1, 1), (2, 1, 1)),
        classifier(32),
    )


class SlowFast(nn.Module):
    """Feichtenhofer 2019: few frames of many channels beside many frames of few; a list of both."""

    SMALL = ((32, 16, 2, 1, 2),)

    def __init__(self, stages=SMALL, *, stem=16, ratio=4, alpha=4, lateral=5, classes=10):
        """A stage: filters, filters inside, blocks, the slow path's frames per window, stride.

        The fast path has a ``ratio``-th of the filters.
        """
        super().__init__()
        fast = stem // ratio
        self.slow, self.fast = nn.ModuleList([self.stem(stem, 1)]), nn.ModuleList()
        self.fast.append(self.stem(fast, 5))
        self.lateral = nn.ModuleList()
        slow = stem
        for filters, inner, count, frames, stride in stages:
            size = (lateral, 1, 1)
            self.lateral.append(conv_bn(fast, 2 * fast, size, stride=(alpha, 1, 1)))
            self.slow.append(self.stage(slow + 2 * fast, inner, filters, count, frames, stride))
            quarter = filters // ratio
            self.fast.append(self.stage(fast, inner // ratio, quarter, count, 3, stride))
            slow, fast = filters, quarter
        self.projection = nn.Linear(slow + fast, classes)

    @staticmethod
    def stem(filters, frames):
        conv = conv_bn(3, filters, (frames, 7, 7), stride=(1, 2, 2))
        return nn.Sequential(conv, nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))

    @staticmethod
    def stage(channels, inner, filters, count, frames, stride):
        def block(channels, stride):
            stride = (1, stride, stride)
            branch = nn.Sequential(
                conv_bn(channels, inner, (frames, 1, 1)),
                conv_bn(inner, inner, (1, 3, 3), stride=stride),
                conv_bn(inner, filters, 1, act=None),
            )
            return Residual(branch, channels, filters, stride=stride)

        return nn.Sequential(
            block(channels, stride), *(block(filters, 1) for _ in range(count - 1))
        )

    def forward(self, pathways):
        slow, fast = pathways
        slow, fast = self.slow[0](slow), self.fast[0](fast)
        for lateral, on_slow, on_fast in zip(
            self.lateral, self.slow[1:], self.fast[1:], strict=True
        ):
            slow, fast = on_slow(torch.cat([slow, lateral(fast)], 1)), on_fast(fast)
        pooled = [x.mean((2, 3, 4)) for x in (slow, fast)]
        return self.projection(torch.cat(pooled, 1))


class Unit3D(nn.Module):
    """I3D's convolution, padded as in TensorFlow."""

    def __init__(self, channels, filters, size=1, stride=1):
        super().__init__()
        self.size, self.stride = (size,) * 3, (stride,) * 3
        self.conv = nn.Conv3d(channels, filters, size, stride, bias=False)
        self.norm = nn.BatchNorm3d(filters, eps=1e-3)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(same_padded(x, self.size, self.stride))))


class SamePool3d(nn.MaxPool3d):
    def forward(self, x):
        sizes = [n if isinstance(n, tuple) else (n,) * 3 for n in (self.kernel_size, self.stride)]
        return functional.max_pool3d(same_padded(x, *sizes), self.kernel_size, self.stride)


class Inception(nn.Module):
    """Four branches, concatenated."""

    def __init__(self, channels, one, three, five, pooled):
        super().__init__()
        self.branches = nn.ModuleList(
            [
                Unit3D(channels, one),
                nn.Sequential(Unit3D(channels, three[0]), Unit3D(*three, 3)),
                nn.Sequential(Unit3D(channels, five[0]), Unit3D(*five, 3)),
                nn.Sequential(SamePool3d(3, 1), Unit3D(channels, pooled)),
            ]
        )

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class I3D(nn.Module):
    """Carreira 2017: Inception v1 in 3D; its logits are a convolution's, meaned over time."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            Unit3D(3, 16, 7, 2),
            SamePool3d((1, 3, 3), (1, 2, 2)),
            Inception(16, 8, (8, 16), (4, 8), 8),
            SamePool3d(2, 2),
            Inception(40, 16, (8, 16), (4, 8), 8),
            nn.AvgPool3d((2, 4, 4), 1),
        )
        self.logits = nn.Conv3d(48, 10, 1)

    def forward(self, x):
        return self.logits(self.features(x)).squeeze(3).squeeze(3).mean(2)


class DenseLayer(nn.Module):
    """BatchNorm first; what it computes is appended to what it reads."""

    def __init__(self, channels, growth):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            nn.Conv3d(channels, 4 * growth, 1, bias=False),
            nn.BatchNorm3d(4 * growth),
            nn.ReLU(),
            nn.Conv3d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x):
        return torch.cat([x, self.layers(x)], 1)


def densenet():
    """Huang 2017, Hara 2018 in 3D."""
    transition = [nn.BatchNorm3d(32), nn.ReLU(), nn.Conv3d(32, 16, 1, bias=False), nn.AvgPool3d(2)]
    return nn.Sequential(
        conv_bn(3, 16, 7, stride=(1, 2, 2)),
        nn.MaxPool3d(3, 2, 1),
        DenseLayer(16, 8),
        DenseLayer(24, 8),
        *transition,
        DenseLayer(16, 8),
        nn.BatchNorm3d(24),
        nn.ReLU(),
        classifier(24),
    )
