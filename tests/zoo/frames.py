"""2D networks on all frames of a clip, with something in time between; and audio beside them."""

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.blocks import classifier, conv_bn, conv_bn_2d


class MotionExcitation(nn.Module):
    """TEA's (Li 2020): channels weighted by how features differ from those of the next frame."""

    def __init__(self, channels, frames):
        super().__init__()
        self.frames, inner = frames, channels // 4
        self.squeeze = conv_bn_2d(channels, inner, 1, act=None)
        self.moved = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.expand = conv_bn_2d(inner, channels, 1, act=None)

    def forward(self, x):
        small = self.squeeze(x)
        clip = small.view(-1, self.frames, *small.shape[1:])
        moved = self.moved(small).view(clip.shape)
        before, _ = clip.split([self.frames - 1, 1], dim=1)
        _, after = moved.split([1, self.frames - 1], dim=1)
        change = functional.pad(after - before, (0, 0, 0, 0, 0, 0, 0, 1)).reshape(small.shape)
        share = torch.sigmoid(self.expand(functional.adaptive_avg_pool2d(change, 1)))
        return x + x * (share - 0.5)


class TemporalAggregation(nn.Module):
    """TEA's: four parts of the channels, each through a convolution in time and one in space; each
    after the second also reads the one before it.
    """

    def __init__(self, channels, frames):
        super().__init__()
        self.frames, self.part = frames, channels // 4
        self.in_time = nn.ModuleList(
            nn.Conv1d(self.part, self.part, 3, padding=1, groups=self.part, bias=False)
            for _ in range(3)
        )
        self.in_space = nn.ModuleList(conv_bn_2d(self.part, self.part, 3) for _ in range(3))

    def shifted(self, x, conv):
        batch, channels, height, width = x.shape
        lines = x.view(-1, self.frames, channels, height, width).permute(0, 3, 4, 2, 1)
        lines = conv(lines.reshape(-1, channels, self.frames))
        lines = lines.view(-1, height, width, channels, self.frames).permute(0, 4, 3, 1, 2)
        return lines.reshape(batch, channels, height, width)

    def forward(self, x):
        first, *parts = torch.split(x, self.part, 1)
        done = [first]
        for number, part in enumerate(parts):
            part = part if number == 0 else part + done[-1]
            done.append(self.in_space[number](self.shifted(part, self.in_time[number])))
        return torch.cat(done, 1)


class TemporalAdaptive(nn.Module):
    """TANet's (Liu 2021): windows in time that are computed from the clip itself, per channel."""

    def __init__(self, channels, frames, size=3):
        super().__init__()
        self.frames, self.size = frames, size
        self.whole = nn.Sequential(
            nn.Linear(frames, 2 * frames, bias=False),
            nn.BatchNorm1d(2 * frames),
            nn.ReLU(),
            nn.Linear(2 * frames, size, bias=False),
            nn.Softmax(-1),
        )
        self.local = nn.Sequential(
            nn.Conv1d(channels, channels // 4, size, padding=size // 2, bias=False),
            nn.BatchNorm1d(channels // 4),
            nn.ReLU(),
            nn.Conv1d(channels // 4, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x):
        _, channels, height, width = x.shape
        clip = x.view(-1, self.frames, channels, height, width).permute(0, 2, 1, 3, 4)
        batch = clip.shape[0]
        means = functional.adaptive_avg_pool2d(clip.reshape(-1, self.frames, height, width), 1)
        means = means.view(-1, self.frames)
        windows = self.whole(means.view(batch * channels, self.frames))
        share = self.local(means.view(batch, channels, self.frames))
        clip = clip * share.view(batch, channels, self.frames, 1, 1)
        out = functional.conv2d(
            clip.reshape(1, batch * channels, self.frames, height * width),
            windows.view(batch * channels, 1, self.size, 1),
            padding=(self.size // 2, 0),
            groups=batch * channels,
        )
        out = out.view(batch, channels, self.frames, height, width)
        return out.permute(0, 2, 1, 3, 4).reshape(x.shape)


class OnFrames(nn.Module):
    """Bottlenecks on all frames, with ``temporal`` modules in them; the mean of frames' logits."""

    class Block(nn.Module):
        def __init__(self, channels, inner, middle):
            super().__init__()
            self.layers = nn.Sequential(
                conv_bn_2d(channels, inner, 1), middle, conv_bn_2d(inner, channels, 1, act=None)
            )

        def forward(self, x):
            return torch.relu(x + self.layers(x))

    def __init__(self, middle, frames=4):
        super().__init__()
        self.frames = frames
        self.stem = nn.Sequential(conv_bn_2d(3, 32, 7, stride=2), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(*(self.Block(32, 16, middle(16, frames)) for _ in range(2)))
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = self.blocks(self.stem(x.view(-1, *x.shape[2:])))
        logits = self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits.view(-1, self.frames, logits.shape[1]).mean(1)


def tea():
    return OnFrames(
        lambda channels, frames: nn.Sequential(
            MotionExcitation(channels, frames), TemporalAggregation(channels, frames)
        )
    )


def tanet():
    return OnFrames(
        lambda channels, frames: nn.Sequential(
            TemporalAdaptive(channels, frames), conv_bn_2d(channels, channels, 3)
        )
    )


class LipNet(nn.Module):
    """Assael 2016: three 3D convolutions, then recurrent layers over frames, both ways."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for filters, size, stride in ((16, (3, 5, 5), (1, 2, 2)), (24, (3, 5, 5), 1), (32, 3, 1)):
            padding = tuple(n // 2 for n in (size if isinstance(size, tuple) else (size,) * 3))
            layers += [nn.Conv3d(channels, filters, size, stride, padding), nn.ReLU()]
            layers += [nn.Dropout3d(0.5), nn.MaxPool3d((1, 2, 2), (1, 2, 2))]
            channels = filters
        self.features = nn.Sequential(*layers)
        self.recurrent = nn.GRU(32 * 4, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = self.features(x).transpose(1, 2).flatten(2)
        return self.fc(self.recurrent(x)[0])


class AudioVisual(nn.Module):
    """Clips by 3D convolutions, sound as a wave by 1D ones (SoundNet's), joined (Owens 2018)."""

    def __init__(self):
        super().__init__()
        self.sight = nn.Sequential(
            conv_bn(3, 16, (5, 7, 7), stride=2), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        )
        layers, channels = [], 1
        for filters, size, stride in ((16, 33, 4), (24, 15, 4), (32, 7, 2)):
            layers += [
                nn.Conv1d(channels, filters, size, stride, size // 2, bias=False),
                nn.BatchNorm1d(filters),
                nn.ReLU(),
            ]
            layers += [nn.MaxPool1d(4, 4)] if channels == 1 else []
            channels = filters
        self.sound = nn.Sequential(*layers)
        self.joined = nn.Sequential(conv_bn(48, 32, 3, stride=(1, 2, 2)), classifier(32))

    def forward(self, clip, wave):
        sight = self.sight(clip)
        sound = functional.adaptive_avg_pool1d(self.sound(wave), sight.shape[2])
        sound = sound[:, :, :, None, None].expand(-1, -1, -1, *sight.shape[3:])
        return self.joined(torch.cat([sight, sound], 1))
