"""Video networks from ResNets and Inceptions, with other things in or between their blocks."""

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.blocks import Residual, classifier, conv_bn, conv_bn_2d


def bottleneck(channels, inner, filters, *, frames=1, stride=(1, 1, 1), groups=1):
    """ResNet-50's in 3D: ``frames`` is what its first convolution reads in time."""
    branch = nn.Sequential(
        conv_bn(channels, inner, (frames, 1, 1)),
        conv_bn(inner, inner, (1, 3, 3), stride=stride, groups=groups),
        conv_bn(inner, filters, 1, act=None),
    )
    return Residual(branch, channels, filters, stride=stride)


class NonLocal(nn.Module):
    """Wang 2018: each place reads all places, of keys and values at half the size; a sum."""

    def __init__(self, channels):
        super().__init__()
        inner = channels // 2
        self.query, self.key, self.value = (nn.Conv3d(channels, inner, 1) for _ in range(3))
        self.pool = nn.MaxPool3d((1, 2, 2))
        self.out = nn.Sequential(nn.Conv3d(inner, channels, 1), nn.BatchNorm3d(channels))
        self.scale = inner**-0.5

    def forward(self, x):
        small = self.pool(x)
        query = self.query(x).flatten(2)
        key, value = self.key(small).flatten(2), self.value(small).flatten(2)
        share = torch.softmax(torch.matmul(query.transpose(1, 2), key) * self.scale, -1)
        read = torch.matmul(share, value.transpose(1, 2)).transpose(1, 2)
        return x + self.out(read.reshape(x.shape[0], -1, *x.shape[2:]))


def i3d_nonlocal():
    """Wang 2018: an inflated ResNet-50, every other block of 3 frames, non-local blocks between."""
    return nn.Sequential(
        conv_bn(3, 16, (5, 7, 7), stride=(1, 2, 2)),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        bottleneck(16, 16, 32, frames=3),
        nn.MaxPool3d((2, 1, 1), (2, 1, 1)),
        bottleneck(32, 16, 64, stride=(1, 2, 2)),
        NonLocal(64),
        bottleneck(64, 16, 64, frames=3),
        classifier(64),
    )


def ip_csn():
    """Tran 2019: where a bottleneck had 3x3x3, 1x1x1 and a depthwise one."""

    def block(channels, inner, filters, stride):
        branch = nn.Sequential(
            conv_bn(channels, inner, 1),
            conv_bn(inner, inner, 1, act=None),
            conv_bn(inner, inner, 3, stride=stride, groups=inner),
            conv_bn(inner, filters, 1, act=None),
        )
        return Residual(branch, channels, filters, stride=stride)

    stem = [conv_bn(3, 16, (3, 7, 7), stride=(1, 2, 2)), nn.MaxPool3d((1, 3, 3), (1, 2, 2))]
    return nn.Sequential(*stem, block(16, 16, 32, 1), block(32, 32, 64, 2), classifier(64))


def resnext3d():
    """Xie 2017, Hara 2018 in 3D: 3x3x3 of several conv groups."""

    def block(channels, inner, filters, stride):
        branch = nn.Sequential(
            conv_bn(channels, inner, 1),
            conv_bn(inner, inner, 3, stride=stride, groups=4),
            conv_bn(inner, filters, 1, act=None),
        )
        return Residual(branch, channels, filters, stride=stride)

    stem = [conv_bn(3, 16, 7, stride=(1, 2, 2)), nn.MaxPool3d(3, 2, 1)]
    return nn.Sequential(*stem, block(16, 32, 64, 1), block(64, 64, 64, 2), classifier(64))


class PreActivation(nn.Module):
    """He 2016: BatchNorm and ReLU before each convolution; shortcuts without weights (type A)."""

    def __init__(self, channels, filters, stride):
        super().__init__()
        self.stride, self.more = stride, filters - channels
        self.norm1, self.norm2 = nn.BatchNorm3d(channels), nn.BatchNorm3d(filters)
        self.conv1 = nn.Conv3d(channels, filters, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv3d(filters, filters, 3, 1, 1, bias=False)

    def forward(self, x):
        y = self.conv1(torch.relu(self.norm1(x)))
        y = self.conv2(torch.relu(self.norm2(y)))
        if self.stride > 1 or self.more:
            x = functional.avg_pool3d(x, 1, self.stride)
            zeros = torch.zeros(x.shape[0], self.more, *x.shape[2:], device=x.device)
            x = torch.cat([x, zeros], 1)
        return x + y


def preact_resnet3d():
    return nn.Sequential(
        conv_bn(3, 16, 7, stride=(1, 2, 2)),
        nn.MaxPool3d(3, 2, 1),
        PreActivation(16, 16, 1),
        PreActivation(16, 32, 2),
        nn.BatchNorm3d(32),
        nn.ReLU(),
        classifier(32),
    )


class TPN(nn.Module):
    """Yang 2020: maps of two depths, brought to one size, at rates of their own in time, summed
    from the deep to the shallow one and back, then side by side.
    """

    def __init__(self, width=16, rates=(4, 2)):
        super().__init__()
        self.stem = nn.Sequential(
            conv_bn(3, 16, (1, 7, 7), stride=(1, 2, 2)), nn.MaxPool3d((1, 2, 2))
        )
        self.shallow = bottleneck(16, 16, 32)
        self.deep = bottleneck(32, 16, 64, frames=3, stride=(1, 2, 2))
        self.in_space = nn.ModuleList(
            [conv_bn(32, width, (1, 3, 3), stride=(1, 2, 2)), conv_bn(64, width, 1)]
        )
        self.in_time = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(),
                nn.MaxPool3d((rate, 1, 1), (rate, 1, 1)),
            )
            for rate in rates
        )
        self.up = nn.Upsample(scale_factor=(0.5, 1, 1), mode="nearest")
        self.down = conv_bn(width, width, (3, 1, 1), stride=(2, 1, 1), act=None)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x):
        shallow = self.shallow(self.stem(x))
        maps = [
            level(x) for level, x in zip(self.in_space, (shallow, self.deep(shallow)), strict=True)
        ]
        slow, fast = (level(x) for level, x in zip(self.in_time, maps, strict=True))
        slow = slow + self.up(fast)
        fast = self.down(fast) + slow
        pooled = [functional.adaptive_avg_pool3d(x, 1) for x in (slow, fast)]
        return self.fc(torch.cat(pooled, 1).flatten(1))


class Smart(nn.Module):
    """ARTNet's (Wang 2018): appearance by 1x3x3; relations by squares of 3x3x3, meaned in pairs."""

    def __init__(self, channels, filters, stride):
        super().__init__()
        self.appearance = conv_bn(channels, filters, (1, 3, 3), stride=(1, stride, stride))
        self.relation = conv_bn(channels, filters, 3, stride=(1, stride, stride), act=None)
        self.pool = nn.Conv3d(filters, filters // 2, 1, bias=False, groups=filters // 2)
        self.reduce = conv_bn(filters + filters // 2, filters, 1)

    def forward(self, x):
        relation = self.pool(self.relation(x).pow(2))
        return self.reduce(torch.cat([self.appearance(x), relation], 1))


def artnet():
    return nn.Sequential(
        Smart(3, 16, 2), nn.MaxPool3d((1, 2, 2)), Smart(16, 32, 2), nn.Dropout(0.2), classifier(32)
    )


class TemporalTransition(nn.Module):
    """T3D's (Diba 2017): kernels of several depths side by side, then a pool.

    An even depth is padded unevenly, so that all have as many frames.
    """

    def __init__(self, channels, filters):
        super().__init__()
        self.depths = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm3d(channels),
                nn.ReLU(),
                nn.ConstantPad3d((*(size[1] // 2,) * 4, (size[0] - 1) // 2, size[0] // 2), 0.0),
                nn.Conv3d(channels, filters, size),
            )
            for size in ((1, 1, 1), (3, 3, 3), (6, 3, 3))
        )
        self.pool = nn.AvgPool3d(2)

    def forward(self, x):
        return self.pool(torch.cat([depth(x) for depth in self.depths], 1))


def t3d():
    return nn.Sequential(
        conv_bn(3, 16, (3, 7, 7), stride=(1, 2, 2)),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        TemporalTransition(16, 16),
        TemporalTransition(48, 16),
        nn.BatchNorm3d(48),
        nn.ReLU(),
        classifier(48),
    )


class SelfGating(nn.Module):
    """S3D-G's: each channel by the sigmoid of a linear layer of all channels' means."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x):
        share = torch.sigmoid(self.fc(x.mean(dim=[2, 3, 4])))
        return share[:, :, None, None, None] * x


def separable(channels, filters, size, *, stride=1):
    """Space, then time."""
    pad = size // 2
    return nn.Sequential(
        conv_bn(channels, filters, (1, size, size), stride=(1, stride, stride)),
        conv_bn(filters, filters, (size, 1, 1), stride=(stride, 1, 1), padding=(pad, 0, 0)),
    )


class GatedInception(nn.Module):
    def __init__(self, channels, one, three, five, pooled):
        super().__init__()

        def gated(filters, *layers):
            return nn.Sequential(*layers, SelfGating(filters))

        self.branches = nn.ModuleList(
            [
                gated(one, conv_bn(channels, one, 1)),
                gated(three[1], conv_bn(channels, three[0], 1), separable(*three, 3)),
                gated(five[1], conv_bn(channels, five[0], 1), separable(*five, 3)),
                gated(pooled, nn.MaxPool3d(3, 1, 1), conv_bn(channels, pooled, 1)),
            ]
        )

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class S3DG(nn.Module):
    """Xie 2018: separable Inception with gates after each branch."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            separable(3, 16, 7, stride=2),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            GatedInception(16, 8, (8, 16), (4, 8), 8),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            GatedInception(40, 8, (8, 16), (4, 8), 8),
            nn.AvgPool3d((2, 4, 4), stride=1),
        )
        self.fc = nn.Conv3d(40, 10, 1)

    def forward(self, x):
        x = self.fc(self.features(x))
        return x.view(x.shape[0], x.shape[1], x.shape[2]).mean(2)


class ECO(nn.Module):
    """Zolfaghari 2018: 2D features of all frames, then a 3D ResNet over them; the full form has a
    2D branch beside it, whose frames are meaned.
    """

    def __init__(self, frames=8):
        super().__init__()
        self.frames = frames
        self.features = nn.Sequential(
            conv_bn_2d(3, 16, 7, stride=2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            conv_bn_2d(16, 24, 3),
        )
        self.pictures = nn.Sequential(
            conv_bn_2d(24, 32, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.volume = nn.Sequential(
            Residual(
                nn.Sequential(conv_bn(24, 32, 3, stride=2), conv_bn(32, 32, 3, act=None)),
                24,
                32,
                stride=2,
            ),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
        )
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.features(x.view(-1, *x.shape[2:]))
        pictures = self.pictures(x).view(-1, self.frames, 32).mean(1)
        clip = x.view(-1, self.frames, *x.shape[1:]).transpose(1, 2)
        return self.fc(torch.cat([self.volume(clip), pictures], 1))
