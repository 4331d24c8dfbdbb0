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
        self.up = nn.ModuleList(
            [
                self.upward(channels[1] + channels[2], channels[0]),
                self.upward(16, classes, last=True),
            ]
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
        first = self.down[0](x)
        second = self.down[1](first)
        x = self.up[0](torch.cat([second, self.bottom(second)], 1))
        return self.up[1](torch.cat([first, x], 1))


class SegResNet(nn.Module):
    """Myronenko 2018, MONAI's: GroupNorm before each convolution, trilinear upsampling, sums."""

    class Block(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.layers = nn.Sequential(
                *(
                    layer
                    for _ in range(2)
                    for layer in (
                        nn.GroupNorm(4, channels),
                        nn.ReLU(),
                        nn.Conv3d(channels, channels, 3, padding=1, bias=False),
                    )
                )
            )

        def forward(self, x):
            return x + self.layers(x)

    def __init__(self, filters=8, classes=3):
        super().__init__()
        self.stem = nn.Conv3d(4, filters, 3, padding=1, bias=False)
        wide, widest = 2 * filters, 4 * filters
        self.down = nn.ModuleList(
            [
                nn.Sequential(nn.Dropout3d(0.2), self.Block(filters)),
                nn.Sequential(self.halved(filters, wide), self.Block(wide), self.Block(wide)),
                nn.Sequential(self.halved(wide, widest), self.Block(widest), self.Block(widest)),
            ]
        )
        self.up = nn.ModuleList([self.doubled(widest, wide), self.doubled(wide, filters)])
        self.after = nn.ModuleList([self.Block(wide), self.Block(filters)])
        self.head = nn.Sequential(
            nn.GroupNorm(4, filters), nn.ReLU(), nn.Conv3d(filters, classes, 1)
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
        first = self.down[0](self.stem(x))
        second = self.down[1](first)
        x = self.down[2](second)
        x = self.after[0](self.up[0](x) + second)
        return self.head(self.after[1](self.up[1](x) + first))


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
        out = self.conv1(x)
        pre = torch.relu(self.conv2(out))
        post = torch.relu(self.conv5(self.conv3(pre)) + pre)
        return self.conv6(post)


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
