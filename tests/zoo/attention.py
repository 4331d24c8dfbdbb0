"""Convolutions and attention together: patch embeddings, windows, pooled keys, layer norms."""

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.blocks import conv_bn


class Mlp(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class PooledAttention(nn.Module):
    """MViT's (Fan 2021): queries, keys and values through depthwise strided convolutions."""

    def __init__(self, width, heads, stride):
        super().__init__()
        self.heads, self.inner = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.pools = nn.ModuleList(
            nn.Conv3d(self.inner, self.inner, 3, (1, step, step), 1, groups=self.inner, bias=False)
            for step in (1, stride, stride)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(self.inner) for _ in range(3))

    def forward(self, x, sides):
        batch, count, width = x.shape
        parts = self.qkv(x).reshape(batch, count, 3, self.heads, self.inner).permute(2, 0, 3, 4, 1)
        pooled = []
        for part, pool, norm in zip(parts.unbind(0), self.pools, self.norms, strict=True):
            volume = pool(part.reshape(batch * self.heads, self.inner, *sides))
            volume = volume.reshape(batch, self.heads, self.inner, -1).transpose(2, 3)
            pooled.append(norm(volume))
        query, key, value = pooled
        share = torch.softmax(query * self.inner**-0.5 @ key.transpose(2, 3), -1)
        read = share @ value + query
        return self.out(read.transpose(1, 2).reshape(batch, -1, width))


class MViT(nn.Module):
    def __init__(self, width=32, sides=(4, 8, 8), depth=2):
        super().__init__()
        self.sides = sides
        self.patch = nn.Conv3d(3, width, (3, 7, 7), (2, 4, 4), (1, 3, 3))
        self.place = nn.Parameter(0.1 * torch.randn(1, sides[0] * sides[1] * sides[2], width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))
        self.attentions = nn.ModuleList(PooledAttention(width, 2, 4) for _ in range(depth))
        self.mlps = nn.ModuleList(Mlp(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        for number, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * number](x), self.sides)
            x = x + mlp(self.norms[2 * number + 1](x))
        return self.head(self.norm(x).mean(1))


class WindowAttention(nn.Module):
    """Video Swin's (Liu 2022): within windows, of a clip that was rolled in every other layer."""

    def __init__(self, width, heads, window, shift, sides):
        super().__init__()
        self.heads, self.window, self.shift, self.sides = heads, window, shift, sides
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        count = window[0] * window[1] * window[2]
        self.bias = nn.Parameter(0.1 * torch.randn(heads, count, count))
        if any(shift):
            self.register_buffer("mask", self.apart())

    def apart(self):
        """-100 between places that only the roll has brought together."""
        part = torch.zeros(1, *self.sides, 1)
        for axis, (size, window, shift) in enumerate(
            zip(self.sides, self.window, self.shift, strict=True), 1
        ):
            place = torch.arange(size)
            number = (place >= size - window).long() + (place >= size - shift).long() * (shift > 0)
            shape = [1] * 5
            shape[axis] = size
            part = part * 3 + number.view(shape)
        part = self.windows(part)[..., 0]
        return torch.where(part[:, :, None] == part[:, None, :], 0.0, -100.0)

    def windows(self, x):
        batch, *_, width = x.shape
        d, h, w = (n // k for n, k in zip(self.sides, self.window, strict=True))
        i, j, k = self.window
        x = x.view(batch, d, i, h, j, w, k, width).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return x.reshape(batch * d * h * w, i * j * k, width)

    def joined(self, x):
        d, h, w = (n // k for n, k in zip(self.sides, self.window, strict=True))
        x = x.view(-1, d, h, w, *self.window, x.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return x.reshape(-1, *self.sides, x.shape[-1])

    def forward(self, x):
        shift = any(self.shift)
        if shift:
            x = torch.roll(x, tuple(-n for n in self.shift), (1, 2, 3))
        x = self.windows(x)
        count, places, width = x.shape
        query, key, value = (
            self.qkv(x).reshape(count, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        share = query * (width // self.heads) ** -0.5 @ key.transpose(2, 3) + self.bias
        if shift:
            masks = self.mask.shape[0]
            share = share.view(-1, masks, self.heads, places, places) + self.mask[:, None]
            share = share.view(-1, self.heads, places, places)
        read = torch.softmax(share, -1) @ value
        x = self.joined(self.out(read.transpose(1, 2).reshape(count, places, width)))
        return torch.roll(x, self.shift, (1, 2, 3)) if shift else x


class VideoSwin(nn.Module):
    def __init__(self, width=24, sides=(4, 8, 8)):
        super().__init__()
        self.patch = nn.Conv3d(3, width, (2, 4, 4), (2, 4, 4))
        self.first = nn.LayerNorm(width)
        window, shifts = (2, 4, 4), ((0, 0, 0), (1, 2, 2))
        self.attentions = nn.ModuleList(
            WindowAttention(width, 3, window, shift, sides) for shift in shifts
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.mlps = nn.ModuleList(Mlp(width) for _ in range(2))
        self.merged = nn.Sequential(
            nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)
        )
        self.norm, self.head = nn.LayerNorm(2 * width), nn.Linear(2 * width, 10)

    def forward(self, x):
        x = self.first(self.patch(x).permute(0, 2, 3, 4, 1))
        for number, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * number](x))
            x = x + mlp(self.norms[2 * number + 1](x))
        quarters = [x[:, :, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        x = self.norm(self.merged(torch.cat(quarters, -1)))
        return self.head(functional.adaptive_avg_pool3d(x.permute(0, 4, 1, 2, 3), 1).flatten(1))


class ConvNeXtBlock(nn.Module):
    """Liu 2022: depthwise 7x7x7, LayerNorm and linear layers with channels last, a scale, a sum."""

    def __init__(self, width):
        super().__init__()
        self.deep = nn.Conv3d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x):
        y = self.norm(self.deep(x).permute(0, 2, 3, 4, 1))
        y = self.scale * self.narrow(functional.gelu(self.wide(y)))
        return x + y.permute(0, 4, 1, 2, 3)


class ChannelNorm(nn.Module):
    """LayerNorm over channels that come first, written out."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None, None] * x + self.bias[:, None, None, None]


def convnext3d():
    return nn.Sequential(
        nn.Conv3d(3, 16, (2, 4, 4), (2, 4, 4)),
        ChannelNorm(16),
        ConvNeXtBlock(16),
        ChannelNorm(16),
        nn.Conv3d(16, 32, 2, 2),
        ConvNeXtBlock(32),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.LayerNorm(32, eps=1e-6),
        nn.Linear(32, 10),
    )


class UNETR(nn.Module):
    """Hatamizadeh 2022: a Transformer over patches of a volume, transposed convolutions back up."""

    def __init__(self, width=32, sides=(2, 4, 4), patch=4, classes=3):
        super().__init__()
        self.sides = sides
        self.patch = nn.Conv3d(1, width, patch, patch)
        self.place = nn.Parameter(0.1 * torch.randn(1, sides[0] * sides[1] * sides[2], width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(2)
        )
        self.mlps = nn.ModuleList(Mlp(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.whole = conv_bn(1, 8, 3, act=nn.LeakyReLU)
        self.middle = nn.ConvTranspose3d(width, 16, 2, 2, bias=False)
        self.up = nn.ConvTranspose3d(width, 16, 2, 2, bias=False)
        self.joined = conv_bn(32, 16, 3, act=nn.LeakyReLU)
        self.last = nn.ConvTranspose3d(16, 8, 2, 2, bias=False)
        self.out = nn.Sequential(conv_bn(16, 8, 3, act=nn.LeakyReLU), nn.Conv3d(8, classes, 1))

    def volume(self, x):
        return x.transpose(1, 2).reshape(x.shape[0], -1, *self.sides)

    def forward(self, volume):
        x, passed = self.patch(volume).flatten(2).transpose(1, 2) + self.place, []
        for number, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            y = self.norms[2 * number](x)
            x = x + attention(y, y, y, need_weights=False)[0]
            x = x + mlp(self.norms[2 * number + 1](x))
            passed.append(x)
        deep = self.up(self.volume(self.norm(x)))
        deep = self.joined(torch.cat([deep, self.middle(self.volume(passed[0]))], 1))
        return self.out(torch.cat([self.last(deep), self.whole(volume)], 1))
