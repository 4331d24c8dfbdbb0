"""Networks that say of each place of a volume, or of a picture from above, what is there."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.blocks import Residual, conv_bn, conv_bn_2d


class VNet(nn.Module):
    """Milletari 2016: 5x5x5, PReLU, strided and transposed convolutions of kernel 2; the input is
    repeated to be added to what the first convolution makes of it.
    """

    def __init__(self, filters=8, classes=2):
        super().__init__()
        self.filters, wide = filters, 2 * filters
        self.stem = conv_bn(1, filters, 5, act=None)
        self.acts = nn.ModuleList(nn.PReLU(n) for n in (filters, wide, wide))
        self.down = nn.Sequential(
            nn.Conv3d(filters, wide, 2, 2), nn.BatchNorm3d(wide), nn.PReLU(wide)
        )
        self.deep = conv_bn(wide, wide, 5, act=lambda: nn.PReLU(wide))
        self.up = nn.Sequential(
            nn.ConvTranspose3d(wide, filters, 2, 2), nn.BatchNorm3d(filters), nn.PReLU(filters)
        )
        self.joined = conv_bn(wide, wide, 5, act=None)
        self.out = nn.Sequential(
            conv_bn(wide, classes, 5, act=lambda: nn.PReLU(classes)), nn.Conv3d(classes, classes, 1)
        )

    def forward(self, x):
        high = self.acts[0](self.stem(x) + x.repeat(1, self.filters, 1, 1, 1))
        down = self.down(high)
        low = self.acts[1](self.deep(down) + down)
        joint = torch.cat([self.up(low), high], 1)
        return torch.softmax(self.out(self.acts[2](self.joined(joint) + joint)), 1)


class NNUNet(nn.Module):
    """Isensee 2021: InstanceNorm with weights, LeakyReLU, strided convolutions, uneven strides, and
    scores at every size (deep supervision).
    """

    def __init__(self, filters=(8, 16, 24), strides=((1, 2, 2), 2), classes=3):
        super().__init__()
        self.down = nn.ModuleList([self.double(1, filters[0], 1)])
        self.up, self.after, self.heads = (nn.ModuleList() for _ in range(3))
        for read, width, stride in zip(filters, filters[1:], strides, strict=False):
            self.down.append(self.double(read, width, stride))
            self.up.insert(0, nn.ConvTranspose3d(width, read, stride, stride))
            self.after.insert(0, self.double(2 * read, read, 1))
            self.heads.insert(0, nn.Conv3d(read, classes, 1))

    @staticmethod
    def double(channels, filters, stride):
        def layers(read, step):
            conv = nn.Conv3d(read, filters, 3, step, 1)
            return [conv, nn.InstanceNorm3d(filters, affine=True), nn.LeakyReLU(0.01)]

        return nn.Sequential(*layers(channels, stride), *layers(filters, 1))

    def forward(self, x):
        passed, scores = [], []
        for layer in self.down:
            x = layer(x)
            passed.append(x)
        for up, after, head, beside in zip(
            self.up, self.after, self.heads, passed[-2::-1], strict=True
        ):
            x = after(torch.cat([up(x), beside], 1))
            scores.append(head(x))
        return tuple(reversed(scores))


class AttentionUNet(nn.Module):
    """Oktay 2018: what passes by is weighted by a gate of it and of the deeper map."""

    class Gate(nn.Module):
        def __init__(self, beside, deep, inner):
            super().__init__()
            self.beside = nn.Conv3d(beside, inner, 2, 2, bias=False)
            self.deep, self.one = nn.Conv3d(deep, inner, 1), nn.Conv3d(inner, 1, 1)
            self.out = conv_bn(beside, beside, 1, act=None)

        def forward(self, x, deep):
            share = torch.sigmoid(self.one(torch.relu(self.beside(x) + self.deep(deep))))
            share = functional.interpolate(
                share, size=x.shape[2:], mode="trilinear", align_corners=True
            )
            return self.out(share.expand_as(x) * x)

    def __init__(self, channels=(8, 16, 32), classes=2):
        super().__init__()
        self.down = nn.ModuleList(map(self.double, (1, *channels), channels))
        pairs = list(zip(channels[-2::-1], channels[:0:-1], strict=True))
        self.gates = nn.ModuleList(self.Gate(high, deep, high) for high, deep in pairs)
        self.up = nn.ModuleList(conv_bn(deep, high, 3) for high, deep in pairs)
        self.after = nn.ModuleList(self.double(2 * high, high) for high, _ in pairs)
        self.out = nn.Conv3d(channels[0], classes, 1)

    @staticmethod
    def double(channels, filters):
        return nn.Sequential(conv_bn(channels, filters, 3), conv_bn(filters, filters, 3))

    def forward(self, x):
        passed = []
        for number, layer in enumerate(self.down):
            x = layer(x if number == 0 else functional.max_pool3d(x, 2))
            passed.append(x)
        for gate, up, after, beside in zip(
            self.gates, self.up, self.after, passed[-2::-1], strict=True
        ):
            wide = up(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = after(torch.cat([gate(beside, x), wide], 1))
        return self.out(x)


class HighResNet(nn.Module):
    """Li 2017: never strided, but dilated by 1, 2 and 4; zeros where channels become more."""

    class Block(nn.Module):
        def __init__(self, channels, filters, dilation):
            super().__init__()
            self.more = filters - channels
            layers, read = [], channels
            for _ in range(2):
                layers += [nn.BatchNorm3d(read), nn.ReLU()]
                layers += [
                    nn.Conv3d(read, filters, 3, padding=dilation, dilation=dilation, bias=False)
                ]
                read = filters
            self.layers = nn.Sequential(*layers)

        def forward(self, x):
            beside = functional.pad(
                x, (0, 0, 0, 0, 0, 0, self.more // 2, self.more - self.more // 2)
            )
            return beside + self.layers(x)

    def __init__(self, filters=8, classes=2):
        super().__init__()
        widths = (filters, filters, 2 * filters, 4 * filters)
        self.stem = conv_bn(1, filters, 3)
        self.blocks = nn.Sequential(
            *(
                self.Block(read, width, 1 << number)
                for number, (read, width) in enumerate(pairwise(widths))
            )
        )
        self.out = nn.Sequential(
            conv_bn(widths[-1], 16, 1), nn.Dropout(0.5), nn.Conv3d(16, classes, 1)
        )

    def forward(self, x):
        return self.out(self.blocks(self.stem(x)))


def medicalnet(classes=2):
    """Chen 2019: a ResNet of dilations in place of strides, and its head of segmentation."""

    def block(channels, filters, *, stride=1, dilation=1):
        branch = nn.Sequential(
            nn.Conv3d(channels, filters, 3, stride, dilation, dilation, bias=False),
            nn.BatchNorm3d(filters),
            nn.ReLU(),
            nn.Conv3d(filters, filters, 3, 1, dilation, dilation, bias=False),
            nn.BatchNorm3d(filters),
        )
        return Residual(branch, channels, filters, stride=stride)

    return nn.Sequential(
        conv_bn(1, 16, 7, stride=2),
        nn.MaxPool3d(3, 2, 1),
        block(16, 16),
        block(16, 32, dilation=2),
        block(32, 48, dilation=4),
        nn.ConvTranspose3d(48, 16, 2, 2),
        nn.BatchNorm3d(16),
        nn.ReLU(),
        nn.Conv3d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm3d(16),
        nn.ReLU(),
        nn.Conv3d(16, classes, 1, bias=False),
    )


class PointPillars(nn.Module):
    """Lang 2019: its 2D part. Three sizes brought to one by transposed convolutions of kernels 1, 2
    and 4, side by side; three heads.
    """

    def __init__(self, channels=16, wide=24, anchors=2, classes=3):
        super().__init__()
        widths = (16, 24, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv_bn_2d(read, width, 3, stride=2), conv_bn_2d(width, width, 3))
            for read, width in zip((channels, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(width, wide, step, step, bias=False),
                nn.BatchNorm2d(wide, eps=1e-3),
                nn.ReLU(),
            )
            for width, step in zip(widths, (1, 2, 4), strict=True)
        )
        outputs = {"scores": classes, "boxes": 7, "directions": 2}
        self.heads = nn.ModuleDict(
            {name: nn.Conv2d(3 * wide, anchors * count, 1) for name, count in outputs.items()}
        )

    def forward(self, x):
        maps = []
        for block, up in zip(self.blocks, self.up, strict=True):
            x = block(x)
            maps.append(up(x))
        x = torch.cat(maps, 1)
        return {name: head(x) for name, head in self.heads.items()}
