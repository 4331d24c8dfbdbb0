"""Networks as other projects publish them: the names, shapes and arithmetic of their weights.

Written out here from their definitions, with a factor on the channels.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional

_S3D_STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        *((192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64)),
        *((112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128)),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


def named(**parts):
    """A container of modules by these names."""
    container = nn.Module()
    for name, part in parts.items():
        container.add_module(name, part)
    return container


class MMActionC3D(nn.Module):
    """mmaction2's C3D: a backbone with all but the last layer, and a head."""

    LAYERS = ((1, "a", 64), (2, "a", 128), (3, "a", 256), (3, "b", 256))
    LAYERS += ((4, "a", 512), (4, "b", 512), (5, "a", 512), (5, "b", 512))

    def __init__(self, width, classes=101, inputs=8192):
        super().__init__()
        self.backbone, channels = nn.Module(), 3
        for stage, letter, filters in self.LAYERS:
            conv = nn.Conv3d(channels, channels := round(filters * width), 3, padding=1)
            self.backbone.add_module(f"conv{stage}{letter}", named(conv=conv))
        hidden = int(4096 * width)
        self.backbone.fc6 = nn.Linear(int(inputs * width), hidden)
        self.backbone.fc7 = nn.Linear(hidden, hidden)
        self.cls_head = named(fc_cls=nn.Linear(hidden, classes))

    def forward(self, x):
        pools = {1: partial(functional.max_pool3d, kernel_size=(1, 2, 2))}
        pools |= dict.fromkeys((2, 3, 4), partial(functional.max_pool3d, kernel_size=2))
        pools[5] = partial(functional.max_pool3d, kernel_size=2, padding=(0, 1, 1))
        for stage in range(1, 6):
            for letter in "ab":
                if layer := getattr(self.backbone, f"conv{stage}{letter}", None):
                    x = functional.relu(layer.conv(x))
            x = pools[stage](x)
        x = functional.relu(self.backbone.fc6(x.flatten(1)))
        return self.cls_head.fc_cls(functional.relu(self.backbone.fc7(x)))


class Plain(nn.Module):
    """kylemin/S3D's convolution of points."""

    def __init__(self, channels, filters):
        super().__init__()
        self.conv = nn.Conv3d(channels, filters, 1, bias=False)
        self.bn = nn.BatchNorm3d(filters, eps=1e-3)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)))


class Separable(nn.Module):
    """kylemin/S3D's convolution of the plane, then of the frames."""

    def __init__(self, channels, filters, k, stride=1):
        super().__init__()
        pad = k // 2
        self.conv_s = nn.Conv3d(
            channels, filters, (1, k, k), (1, stride, stride), (0, pad, pad), bias=False
        )
        self.bn_s = nn.BatchNorm3d(filters, eps=1e-3)
        self.conv_t = nn.Conv3d(
            filters, filters, (k, 1, 1), (stride, 1, 1), (pad, 0, 0), bias=False
        )
        self.bn_t = nn.BatchNorm3d(filters, eps=1e-3)

    def forward(self, x):
        x = functional.relu(self.bn_s(self.conv_s(x)))
        return functional.relu(self.bn_t(self.conv_t(x)))


class Mixed(nn.Module):
    """kylemin/S3D's Inception block."""

    def __init__(self, channels, plain, mid1, out1, mid2, out2, pooled):
        super().__init__()
        self.branch0 = nn.Sequential(Plain(channels, plain))
        self.branch1 = nn.Sequential(Plain(channels, mid1), Separable(mid1, out1, 3))
        self.branch2 = nn.Sequential(Plain(channels, mid2), Separable(mid2, out2, 3))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), Plain(channels, pooled))

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.children()], 1)


class KyleminS3D(nn.Module):
    """kylemin/S3D, which pools pairs of frames over the whole plane."""

    def __init__(self, width, classes=400):
        super().__init__()
        plane = partial(nn.MaxPool3d, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        first, second = (round(filters * width) for filters in (64, 192))
        layers = [Separable(3, first, 7, 2), plane(), Plain(first, first)]
        layers.append(Separable(first, channels := second, 3))
        for pool, stage in zip(
            (plane(), nn.MaxPool3d(3, 2, 1), nn.MaxPool3d(2)), _S3D_STAGES, strict=True
        ):
            layers.append(pool)
            for sizes in stage:
                sizes = [round(filters * width) for filters in sizes]
                layers.append(Mixed(channels, *sizes))
                channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
        self.base = nn.Sequential(*layers)
        self.fc = nn.Sequential(nn.Conv3d(channels, classes, 1))

    def forward(self, x):
        x = self.base(x)
        x = functional.avg_pool3d(x, (2, *x.shape[3:]), 1)
        return self.fc(x).mean((2, 3, 4))
