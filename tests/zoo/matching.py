"""Two pictures or volumes held against each other; volumes made anew from what is left of them."""

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.blocks import conv_bn, conv_bn_2d


def expected_disparity(cost, disparities):
    """The mean of all disparities, weighted by the softmax of costs [B, disparities, H, W]."""
    share = torch.softmax(-cost, 1)
    values = torch.arange(disparities, dtype=share.dtype, device=share.device)
    return (share * values.view(1, -1, 1, 1)).sum(1)


class GCNet(nn.Module):
    """Kendall 2017: features side by side at all shifts, made of pads; sums down and up; the last
    transposed convolution gives one cost per disparity and pixel.
    """

    def __init__(self, disparities=16, features=8):
        super().__init__()
        self.disparities = disparities
        self.features = nn.Sequential(
            conv_bn_2d(3, features, 5, stride=2), nn.Conv2d(features, features, 3, 1, 1)
        )
        self.first = conv_bn(2 * features, 16, 3)
        self.down = nn.ModuleList([conv_bn(16, 24, 3, stride=2), conv_bn(24, 32, 3, stride=2)])
        self.inner = nn.ModuleList([conv_bn(24, 24, 3), conv_bn(32, 32, 3)])
        self.up = nn.ModuleList([self.doubled(32, 24), self.doubled(24, 16)])
        self.last = nn.ConvTranspose3d(16, 1, 3, 2, 1, output_padding=1)

    @staticmethod
    def doubled(channels, filters):
        return nn.Sequential(
            nn.ConvTranspose3d(channels, filters, 3, 2, 1, output_padding=1),
            nn.BatchNorm3d(filters),
            nn.ReLU(),
        )

    def forward(self, left, right):
        left, right = self.features(left), self.features(right)
        width, planes = right.shape[3], []
        for shift in range(self.disparities // 2):
            moved = functional.pad(right, (shift, 0, 0, 0))[:, :, :, :width]
            planes.append(torch.cat([left, moved], 1))
        cost = self.first(torch.stack(planes, 2))
        middle = self.down[0](cost)
        deep = self.inner[1](self.down[1](middle))
        middle = self.inner[0](middle) + self.up[0](deep)
        cost = self.last(cost + self.up[1](middle)).squeeze(1)
        return expected_disparity(cost, self.disparities)


class GwcNet(nn.Module):
    """Guo 2019: groups of channels multiplied at all shifts and meaned, filled in forward()."""

    def __init__(self, disparities=8, features=16, groups=4):
        super().__init__()
        self.disparities, self.groups = disparities, groups
        self.features = nn.Sequential(
            conv_bn_2d(3, features, 3, stride=2), conv_bn_2d(features, features, 3)
        )
        self.volume = nn.Sequential(
            conv_bn(groups, 16, 3), conv_bn(16, 16, 3), nn.Conv3d(16, 1, 3, padding=1, bias=False)
        )

    def correlated(self, a, b):
        batch, channels, height, width = a.shape
        return (a * b).view(batch, self.groups, channels // self.groups, height, width).mean(2)

    def forward(self, left, right):
        left, right = self.features(left), self.features(right)
        batch, _, height, width = left.shape
        volume = left.new_zeros(batch, self.groups, self.disparities, height, width)
        for shift in range(self.disparities):
            if shift:
                volume[:, :, shift, :, shift:] = self.correlated(
                    left[:, :, :, shift:], right[:, :, :, :-shift]
                )
            else:
                volume[:, :, shift] = self.correlated(left, right)
        cost = self.volume(volume.contiguous()).squeeze(1)
        cost = functional.interpolate(cost, scale_factor=2, mode="bilinear", align_corners=False)
        return expected_disparity(cost, self.disparities)


class VoxelMorph(nn.Module):
    """Balakrishnan 2019: two volumes side by side through a U-Net to the field that moves one onto
    the other; that it moves them is left to who runs it.
    """

    def __init__(self, channels=(8, 16, 16)):
        super().__init__()
        self.down = nn.ModuleList(map(self.conv, (2, *channels), channels))
        self.bottom = self.conv(channels[-1], channels[-1])
        reads = [channels[-1], *channels[:0:-1]]
        self.up = nn.ModuleList(
            self.conv(read + beside, width)
            for read, beside, width in zip(
                reads, reversed(channels), reversed(channels), strict=True
            )
        )
        self.flow = nn.Conv3d(channels[0], 3, 3, padding=1)

    @staticmethod
    def conv(channels, filters):
        return nn.Sequential(nn.Conv3d(channels, filters, 3, 1, 1), nn.LeakyReLU(0.2))

    def forward(self, moving, fixed):
        x, passed = torch.cat([moving, fixed], 1), []
        for layer in self.down:
            x = layer(x)
            passed.append(x)
            x = functional.max_pool3d(x, 2)
        x = self.bottom(x)
        for layer, beside in zip(self.up, reversed(passed), strict=True):
            x = layer(torch.cat([functional.interpolate(x, scale_factor=2), beside], 1))
        return self.flow(x)


class VideoSuperResolution(nn.Module):
    """Jo 2018 (DUF): dense 3D layers over frames; windows of the middle frame that are computed per
    pixel, a softmax each, and a residual; pixels shuffled to twice the size.
    """

    def __init__(self, scale=2, frames=5):
        super().__init__()
        self.scale = scale
        self.stem = nn.Conv3d(3, 16, (1, 3, 3), padding=(0, 1, 1))
        self.dense = nn.ModuleList(self.layer(16 + 8 * number, 8) for number in range(2))
        self.joined = nn.Sequential(
            nn.BatchNorm3d(32),
            nn.ReLU(),
            nn.Conv3d(32, 32, (1, 3, 3), padding=(0, 1, 1)),
            nn.ReLU(),
        )
        self.residual, self.windows = (
            nn.Sequential(nn.Conv3d(32, 32, 1), nn.ReLU(), nn.Conv3d(32, count * scale**2, 1))
            for count in (3, 25)
        )

    @staticmethod
    def layer(channels, growth):
        return nn.Sequential(
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            nn.Conv3d(channels, channels, 1),
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            nn.Conv3d(channels, growth, 3, padding=(0, 1, 1)),
        )

    def forward(self, clip):
        x = self.stem(clip)
        for layer in self.dense:
            x = torch.cat([x[:, :, 1:-1], layer(x)], 1)
        x = self.joined(x)
        residual, windows = self.residual(x)[:, :, 0], self.windows(x)[:, :, 0]
        middle = clip[:, :, clip.shape[2] // 2]
        batch, _, height, width = middle.shape
        shares = torch.softmax(windows.view(batch, 25, self.scale**2, height, width), 1)
        sides = functional.pad(middle, (2, 2, 2, 2))
        near = torch.stack(
            [sides[:, :, i : i + height, j : j + width] for i in range(5) for j in range(5)], 1
        )
        wide = (near[:, :, :, None] * shares[:, :, None]).sum(1)
        wide = wide.view(batch, 3 * self.scale**2, height, width)
        return functional.pixel_shuffle(wide + residual, self.scale)


class Autoencoder(nn.Module):
    """Gong 2019 (MemAE): down, a memory that is read by hard shrinkage, up again."""

    def __init__(self, width=24, slots=20, threshold=0.02):
        super().__init__()
        self.threshold = threshold
        self.down = nn.Sequential(
            *(self.conv(1, 8, (1, 2, 2)), self.conv(8, 16, 2), self.conv(16, width, 2))
        )
        self.memory = nn.Linear(width, slots, bias=False)
        self.up = nn.Sequential(
            self.doubled(width, 16),
            self.doubled(16, 8),
            nn.ConvTranspose3d(8, 1, (3, 3, 3), (1, 2, 2), 1, (0, 1, 1)),
        )

    @staticmethod
    def conv(channels, filters, stride):
        return nn.Sequential(
            nn.Conv3d(channels, filters, 3, stride, 1), nn.BatchNorm3d(filters), nn.LeakyReLU(0.2)
        )

    @staticmethod
    def doubled(channels, filters):
        return nn.Sequential(
            nn.ConvTranspose3d(channels, filters, 3, 2, 1, 1),
            nn.BatchNorm3d(filters),
            nn.LeakyReLU(0.2),
        )

    def forward(self, x):
        x = self.down(x)
        lines = x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])
        share = torch.softmax(self.memory(lines), 1)
        over = share - self.threshold
        share = torch.relu(over) * share / (over.abs() + 1e-12)
        share = functional.normalize(share, p=1, dim=1)
        lines = share @ self.memory.weight
        x = lines.view(x.shape[0], *x.shape[2:], -1).permute(0, 4, 1, 2, 3)
        return self.up(x)


def voxnet(classes=10):
    """Maturana 2015: a grid of occupancies, few and large windows, no padding."""
    return nn.Sequential(
        nn.Conv3d(1, 16, 5, 2),
        nn.LeakyReLU(0.1),
        nn.Dropout(0.2),
        nn.Conv3d(16, 16, 3, 1),
        nn.LeakyReLU(0.1),
        nn.MaxPool3d(2),
        nn.Flatten(),
        nn.Linear(16 * 2**3, 32),
        nn.ReLU(),
        nn.Linear(32, classes),
    )
