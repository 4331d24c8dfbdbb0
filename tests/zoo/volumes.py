"""Networks that put out volumes: segmentation and stereo."""

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.blocks import conv_bn, conv_bn_2d


class ResidualUnit(nn.Module):
    """MONAI's: convolution, instance normalisation and PReLU, twice; a convolution beside them."""

    def __init__(self, channels, filters, *, stride=1, units=2, last=False):
        super().__init__()
        layers, read = [], channels
        for number in range(units):
            layers.append(nn.Conv3d(read, filters, 3, stride if number == 0 else 1, 1))
            if not (last and number == units - 1):
                layers += [nn.InstanceNorm3d(filters), nn.PReLU()]
            read = filters
        self.conv = nn.Sequential(*layers)
        self.residual = nn.Identity()
        if stride > 1:
            self.residual = nn.Conv3d(channels, filters, 3, stride, 1)
        elif channels != filters:
            self.residual = nn.Conv3d(channels, filters, 1)

    def forward(self, x):
        return self.conv(x) + self.residual(x)


class UNet(nn.Module):
    """MONAI's UNet: strided residual units down, transposed convolutions up, concatenations."""

    def __init__(self, channels=(8, 16, 32), classes=3):
        super().__init__()
        self.down = nn.ModuleList(
            ResidualUnit(a, b, stride=2)
            for a, b in zip((1, *channels), channels[:-1], strict=False)
        )
        self.bottom = ResidualUnit(channels[-2], channels[-1])
        deepest = len(channels) - 2
        self.up = nn.ModuleList(
            self.upward(
                channels[level] + channels[level + (level == deepest)],
                channels[level - 1] if level else classes,
                last=level == 0,
            )
            for level in range(deepest, -1, -1)
        )

    @staticmethod
    def upward(channels, filters, *, last=False):
        return nn.Sequential(
            nn.ConvTranspose3d(channels, filters, 3, 2, 1, output_padding=1),
            nn.InstanceNorm3d(filters),
            nn.PReLU(),
            ResidualUnit(filters, filters, units=1, last=last),
        )

    def forward(self, x):
        passed = []
        for layer in self.down:
            x = layer(x)
            passed.append(x)
        x = self.bottom(x)
        for layer, beside in zip(self.up, reversed(passed), strict=True):
            x = layer(torch.cat([beside, x], 1))
        return x


class SegResNet(nn.Module):
    """Myronenko 2018, MONAI's: GroupNorm before each convolution, trilinear upsampling, sums."""

    class Block(nn.Module):
        def __init__(self, channels, groups):
            super().__init__()
            self.layers = nn.Sequential(
                *(
                    layer
                    for _ in range(2)
                    for layer in (
                        nn.GroupNorm(groups, channels),
                        nn.ReLU(),
                        nn.Conv3d(channels, channels, 3, padding=1, bias=False),
                    )
                )
            )

        def forward(self, x):
            return x + self.layers(x)

    def __init__(self, filters=8, classes=3, *, blocks=(1, 2, 2), groups=4):
        super().__init__()
        self.stem = nn.Conv3d(4, filters, 3, padding=1, bias=False)
        widths = [filters << level for level in range(len(blocks))]
        self.down = nn.ModuleList(
            nn.Sequential(
                self.halved(widths[level - 1], width) if level else nn.Dropout3d(0.2),
                *(self.Block(width, groups) for _ in range(count)),
            )
            for level, (width, count) in enumerate(zip(widths, blocks, strict=True))
        )
        upward = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(self.doubled(wide, width) for wide, width in upward)
        self.after = nn.ModuleList(self.Block(width, groups) for _, width in upward)
        self.head = nn.Sequential(
            nn.GroupNorm(groups, filters), nn.ReLU(), nn.Conv3d(filters, classes, 1)
        )

    @staticmethod
    def halved(channels, filters):
        return nn.Conv3d(channels, filters, 3, 2, 1, bias=False)

    @staticmethod
    def doubled(channels, filters):
        return nn.Sequential(
            nn.Conv3d(channels, filters, 1, bias=False),
            nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False),
        )

    def forward(self, x):
        x, passed = self.stem(x), []
        for layer in self.down:
            x = layer(x)
            passed.append(x)
        for up, after, beside in zip(self.up, self.after, passed[-2::-1], strict=True):
            x = after(up(x) + beside)
        return self.head(x)


class Hourglass(nn.Module):
    """PSMNet's: two strided convolutions down, two transposed ones up, sums between."""

    def __init__(self, channels):
        super().__init__()
        wide = 2 * channels
        self.conv1 = conv_bn(channels, wide, 3, stride=2)
        self.conv2 = conv_bn(wide, wide, 3, act=None)
        self.conv3 = nn.Sequential(conv_bn(wide, wide, 3, stride=2), conv_bn(wide, wide, 3))
        self.conv5 = self.doubled(wide, wide)
        self.conv6 = self.doubled(wide, channels)

    @staticmethod
    def doubled(channels, filters):
        return nn.Sequential(
            nn.ConvTranspose3d(channels, filters, 3, 2, 1, output_padding=1, bias=False),
            nn.BatchNorm3d(filters),
        )

    def forward(self, x):
        return self.all_parts(x)[0]

    def all_parts(self, x, first=None, before=None):
        """The result, and what is between; of the first hourglass and the one before, those."""
        between = self.conv2(self.conv1(x))
        between = torch.relu(between if before is None else between + before)
        up = self.conv5(self.conv3(between))
        after = torch.relu(up + (between if first is None else first))
        return self.conv6(after), between, after


class PSMNet(nn.Module):
    """Chang 2018: a cost volume of two pictures' features, filled in forward(); hourglasses over
    it; the expected disparity.
    """

    def __init__(self, disparities=16, features=8):
        super().__init__()
        self.disparities = disparities
        self.features = nn.Sequential(
            conv_bn_2d(3, features, 3, stride=2),
            conv_bn_2d(features, features, 3, stride=2),
            nn.Conv2d(features, features, 1, bias=False),
        )
        self.first = nn.Sequential(conv_bn(2 * features, 16, 3), conv_bn(16, 16, 3))
        self.hourglass = Hourglass(16)
        self.classify = nn.Sequential(
            conv_bn(16, 16, 3), nn.Conv3d(16, 1, 3, padding=1, bias=False)
        )

    def forward(self, left, right):
        a, b = self.features(left), self.features(right)
        batch, channels, height, width = a.shape
        shifts = self.disparities // 4
        cost = torch.zeros(batch, 2 * channels, shifts, height, width, device=a.device)
        for i in range(shifts):
            cost[:, :channels, i, :, i:] = a[:, :, :, i:]
            cost[:, channels:, i, :, i:] = b[:, :, :, : width - i]
        cost = self.first(cost)
        cost = self.classify(cost + self.hourglass(cost))
        size = (self.disparities, *left.shape[2:])
        cost = functional.interpolate(cost, size, mode="trilinear", align_corners=False)
        share = torch.softmax(cost.squeeze(1), 1)
        values = torch.arange(self.disparities, dtype=share.dtype, device=share.device)
        return (share * values.view(1, -1, 1, 1)).sum(1)
