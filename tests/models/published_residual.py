"""Residual networks as mmaction2 and SlowFast publish them; see `published_networks`."""

import torch
from torch import nn
from torch.nn import functional

from tests.models.published_networks import named

_X3D = ((24, 54, 8), (48, 108, 8), (96, 216, 16), (192, 432, 32))


class Pair(nn.Module):
    """mmaction2's Conv2plus1d and the norm behind it, whose eps is another."""

    def __init__(self, channels, filters, kernel, stride=(1, 1, 1), act=True):
        super().__init__()
        t, k = kernel
        middle = max(1, t * k * k * channels * filters // (k * k * channels + t * filters))
        self.conv, self.act = nn.Module(), act
        self.conv.conv_s = nn.Conv3d(
            channels, middle, (1, k, k), (1, *stride[1:]), (0, k // 2, k // 2), bias=False
        )
        self.conv.bn_s = nn.BatchNorm3d(middle)
        self.conv.conv_t = nn.Conv3d(
            middle, filters, (t if k > 1 else 1, 1, 1), (stride[0], 1, 1), 0, bias=False
        )
        if k > 1:
            self.conv.conv_t.padding = (t // 2, 0, 0)
        self.bn = nn.BatchNorm3d(filters, eps=1e-3)

    def forward(self, x):
        x = functional.relu(self.conv.bn_s(self.conv.conv_s(x)))
        x = self.bn(self.conv.conv_t(x))
        return functional.relu(x) if self.act else x


class MMActionR34(nn.Module):
    """mmaction2's R(2+1)D-34."""

    def __init__(self, width, classes=400):
        super().__init__()
        channels = round(64 * width)
        self.backbone = named(conv1=Pair(3, channels, (3, 7), (1, 2, 2)))
        for stage, (filters, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
            filters, layer = round(filters * width), nn.Sequential()
            for number in range(count):
                steps = (2, 2, 2) if stage > 1 and number == 0 else (1, 1, 1)
                block = named(
                    conv1=Pair(channels, filters, (3, 3), steps),
                    conv2=Pair(filters, filters, (3, 3), act=False),
                )
                if steps != (1, 1, 1):
                    block.downsample = Pair(channels, filters, (3, 1), steps, act=False)
                layer.append(block)
                channels = filters
            self.backbone.add_module(f"layer{stage}", layer)
        self.cls_head = named(fc_cls=nn.Linear(channels, classes))

    def forward(self, x):
        x = functional.max_pool3d(self.backbone.conv1(x), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for stage in range(1, 5):
            for block in getattr(self.backbone, f"layer{stage}"):
                shortcut = block.downsample(x) if hasattr(block, "downsample") else x
                x = functional.relu(block.conv2(block.conv1(x)) + shortcut)
        return self.cls_head.fc_cls(x.mean((2, 3, 4)))


def _unit(channels, filters, kernel=1, stride=1, groups=1):
    conv = nn.Conv3d(channels, filters, kernel, stride, kernel // 2, groups=groups, bias=False)
    return named(conv=conv, bn=nn.BatchNorm3d(filters))


def _apply(unit, x):
    return unit.bn(unit.conv(x))


class MMActionX3D(nn.Module):
    """mmaction2's X3D of 3, 5, 11 and 7 blocks, which pools over the whole clip."""

    def __init__(self, width, classes=400):
        super().__init__()
        scaled = lambda n: max(1, round(n * width))  # noqa: E731
        channels = scaled(24)
        self.backbone = nn.Module()
        first = nn.Conv3d(3, channels, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.backbone.conv1_s = named(conv=first)
        second = nn.Conv3d(
            channels, channels, (5, 1, 1), padding=(2, 0, 0), groups=channels, bias=False
        )
        self.backbone.conv1_t = named(conv=second, bn=nn.BatchNorm3d(channels))
        for stage, (sizes, count) in enumerate(zip(_X3D, (3, 5, 11, 7), strict=True), 1):
            filters, inner, squeezed = map(scaled, sizes)
            layer = nn.Sequential()
            for number in range(count):
                steps = (1, 2, 2) if number == 0 else 1
                block = named(
                    conv1=_unit(channels, inner),
                    conv2=_unit(inner, inner, 3, steps, inner),
                    conv3=_unit(inner, filters),
                )
                if number == 0:
                    block.downsample = _unit(channels, filters, stride=steps)
                if number % 2 == 0:
                    block.se_module = named(
                        fc1=nn.Conv3d(inner, squeezed, 1), fc2=nn.Conv3d(squeezed, inner, 1)
                    )
                layer.append(block)
                channels = filters
            self.backbone.add_module(f"layer{stage}", layer)
        self.backbone.conv5 = _unit(channels, inner)
        hidden = scaled(2048)
        self.cls_head = named(
            fc1=nn.Linear(inner, hidden, bias=False), fc2=nn.Linear(hidden, classes)
        )

    @staticmethod
    def block(block, x):
        y = _apply(block.conv2, functional.relu(_apply(block.conv1, x)))
        if hasattr(block, "se_module"):
            squeezed = functional.relu(block.se_module.fc1(y.mean((2, 3, 4), keepdim=True)))
            y = y * torch.sigmoid(block.se_module.fc2(squeezed))
        y = _apply(block.conv3, y * torch.sigmoid(y))
        return functional.relu(
            y + (_apply(block.downsample, x) if hasattr(block, "downsample") else x)
        )

    def forward(self, x):
        x = functional.relu(_apply(self.backbone.conv1_t, self.backbone.conv1_s.conv(x)))
        for stage in range(1, 5):
            for block in getattr(self.backbone, f"layer{stage}"):
                x = self.block(block, x)
        x = functional.relu(_apply(self.backbone.conv5, x)).mean((2, 3, 4))
        return self.cls_head.fc2(functional.relu(self.cls_head.fc1(x)))


# The same network by the names of SlowFast, which mmaction2 took it from.
_SLOWFAST = (
    *(("backbone.conv1_s.conv", "s1.pathway0_stem.conv_xy"),),
    *(("backbone.conv1_t.conv", "s1.pathway0_stem.conv"),),
    *(("backbone.conv1_t.bn", "s1.pathway0_stem.bn"), ("backbone.conv5.conv", "head.conv_5")),
    *(("backbone.conv5.bn", "head.conv_5_bn"), ("cls_head.fc2", "head.projection")),
    *((f"backbone.layer{n}.", f"s{n + 1}.pathway0_res") for n in range(1, 5)),
    *(("downsample.conv", "branch1"), ("downsample.bn", "branch1_bn")),
    *((f"conv{n}.conv", f"branch2.{letter}") for n, letter in ((1, "a"), (2, "b"), (3, "c"))),
    *((f"conv{n}.bn", f"branch2.{letter}_bn") for n, letter in ((1, "a"), (2, "b"), (3, "c"))),
    *(("se_module", "branch2.se"), ("cls_head.fc1", "head.lin_5")),
)


def named_by_slowfast(state):
    """A state dict of `MMActionX3D` as SlowFast has it: its one linear layer is a convolution."""
    found = {}
    for name, tensor in state.items():
        if name == "cls_head.fc1.weight":
            tensor = tensor[:, :, None, None, None]
        for theirs, slowfast in _SLOWFAST:
            name = name.replace(theirs, slowfast)
        found[name] = tensor
    return found
