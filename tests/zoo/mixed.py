"""2D networks, and ones that mix 3D with 2D, 1D and attention."""

import torch
from torch import nn
from torch.nn import functional

from tests.zoo.blocks import SqueezeExcitation, conv_bn, conv_bn_2d


class BasicBlock2d(nn.Module):
    """Of ResNet-18, with PReLU as in lipreading."""

    def __init__(self, channels, filters, stride):
        super().__init__()
        self.layers = nn.Sequential(
            conv_bn_2d(channels, filters, 3, stride=stride, act=lambda: nn.PReLU(filters)),
            conv_bn_2d(filters, filters, 3, act=None),
        )
        self.shortcut, self.act = nn.Identity(), nn.PReLU(filters)
        if stride > 1 or channels != filters:
            self.shortcut = conv_bn_2d(channels, filters, 1, stride=stride, act=None)

    def forward(self, x):
        return self.act(self.layers(x) + self.shortcut(x))


class TemporalBlock(nn.Module):
    """A TCN's: dilated convolutions over frames, cut to what came before; a sum."""

    def __init__(self, channels, filters, dilation, size=3):
        super().__init__()
        self.cut = (size - 1) * dilation
        self.convs = nn.ModuleList(
            nn.Conv1d(read, filters, size, padding=self.cut, dilation=dilation)
            for read in (channels, filters)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(filters) for _ in range(2))
        self.shortcut = nn.Identity() if channels == filters else nn.Conv1d(channels, filters, 1)

    def forward(self, x):
        y = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = torch.relu(norm(conv(y))[:, :, : -self.cut])
        return torch.relu(y + self.shortcut(x))


class Lipreading(nn.Module):
    """Martinez 2020: a 3D stem, a 2D ResNet on each frame, a 1D TCN over frames."""

    def __init__(self, filters=16, *, trunk=((16, 1), (32, 2)), frames=(32, 48), classes=10):
        super().__init__()
        self.stem = nn.Sequential(
            conv_bn(1, filters, (5, 7, 7), stride=(1, 2, 2), act=lambda: nn.PReLU(filters)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        widths = [filters, *(width for width, _ in trunk)]
        blocks = (
            BasicBlock2d(read, width, stride)
            for read, (width, stride) in zip(widths, trunk, strict=False)
        )
        self.trunk = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1))
        reads = (widths[-1], *frames)
        self.tcn = nn.Sequential(
            *(
                TemporalBlock(read, width, 1 << number)
                for number, (read, width) in enumerate(zip(reads, frames, strict=False))
            )
        )
        self.output = nn.Linear(frames[-1], classes)

    def forward(self, x):
        x = self.stem(x)
        batch, channels, frames, height, width = x.shape
        x = x.transpose(1, 2).reshape(batch * frames, channels, height, width)
        x = self.trunk(x).view(batch, frames, -1)
        return self.output(self.tcn(x.transpose(1, 2)).mean(2))


class TSMBottleneck(nn.Module):
    """A 2D bottleneck that first moves some channels one frame forth and some back."""

    def __init__(self, channels, inner, filters, stride, frames):
        super().__init__()
        self.frames, self.fold = frames, channels // 8
        self.layers = nn.Sequential(
            conv_bn_2d(channels, inner, 1),
            conv_bn_2d(inner, inner, 3, stride=stride),
            conv_bn_2d(inner, filters, 1, act=None),
        )
        self.shortcut = nn.Identity()
        if stride > 1 or channels != filters:
            self.shortcut = conv_bn_2d(channels, filters, 1, stride=stride, act=None)

    def forward(self, x):
        return torch.relu(self.layers(self.shifted(x)) + self.shortcut(x))

    def shifted(self, x):
        clip = x.view(-1, self.frames, *x.shape[1:])
        out, fold = torch.zeros_like(clip), self.fold
        out[:, :-1, :fold] = clip[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = clip[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = clip[:, :, 2 * fold :]
        return out.view(x.shape)


class TSM(nn.Module):
    """Lin 2019: a 2D ResNet on all frames, with temporal shifts; the mean of the frames' logits."""

    def __init__(self, frames=4):
        super().__init__()
        self.frames = frames
        self.stem = nn.Sequential(conv_bn_2d(3, 16, 7, stride=2), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(
            TSMBottleneck(16, 16, 64, 1, frames),
            TSMBottleneck(64, 16, 64, 1, frames),
            TSMBottleneck(64, 32, 64, 2, frames),
        )
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.blocks(self.stem(x.view(-1, *x.shape[2:])))
        logits = self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits.view(-1, self.frames, logits.shape[1]).mean(1)


class MBConv(nn.Module):
    """EfficientNet's and MobileNetV3's: expand, depthwise, SE, project."""

    def __init__(
        self, channels, filters, *, expand, size, stride, act, gate=nn.Sigmoid, se=nn.SiLU
    ):
        super().__init__()
        inner = channels * expand
        self.joined = stride == 1 and channels == filters
        first = [conv_bn_2d(channels, inner, 1, act=act)] if expand > 1 else []
        self.layers = nn.Sequential(
            *first,
            conv_bn_2d(inner, inner, size, stride=stride, groups=inner, act=act),
            SqueezeExcitation(nn.Conv2d, inner, max(channels // 4, 4), act=se, gate=gate),
            conv_bn_2d(inner, filters, 1, act=None),
        )

    def forward(self, x):
        return x + self.layers(x) if self.joined else self.layers(x)


def _pooled():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))


def efficientnet_b0():
    """Tan 2019."""
    return nn.Sequential(
        conv_bn_2d(3, 16, 3, stride=2, act=nn.SiLU),
        MBConv(16, 16, expand=1, size=3, stride=1, act=nn.SiLU),
        MBConv(16, 24, expand=6, size=3, stride=2, act=nn.SiLU),
        MBConv(24, 24, expand=6, size=5, stride=1, act=nn.SiLU),
        MBConv(24, 32, expand=6, size=5, stride=2, act=nn.SiLU),
        conv_bn_2d(32, 96, 1, act=nn.SiLU),
        _pooled(),
        nn.Linear(96, 10),
    )


def mobilenet_v3():
    """Howard 2019: hard swish, and SE of ReLU and hard sigmoid."""
    hard = {"act": nn.Hardswish, "gate": nn.Hardsigmoid, "se": nn.ReLU}
    return nn.Sequential(
        conv_bn_2d(3, 16, 3, stride=2, act=nn.Hardswish),
        MBConv(16, 16, expand=1, size=3, stride=2, **{**hard, "act": nn.ReLU}),
        MBConv(16, 24, expand=4, size=5, stride=2, **hard),
        MBConv(24, 24, expand=4, size=5, stride=1, **hard),
        conv_bn_2d(24, 96, 1, act=nn.Hardswish),
        _pooled(),
        nn.Linear(96, 64),
        nn.Hardswish(),
        nn.Linear(64, 10),
    )


class Bottleneck2d(nn.Module):
    """ResNet-50's."""

    def __init__(self, channels, inner, filters, stride=1):
        super().__init__()
        self.layers = nn.Sequential(
            conv_bn_2d(channels, inner, 1),
            conv_bn_2d(inner, inner, 3, stride=stride),
            conv_bn_2d(inner, filters, 1, act=None),
        )
        self.shortcut = nn.Identity()
        if stride > 1 or channels != filters:
            self.shortcut = conv_bn_2d(channels, filters, 1, stride=stride, act=None)

    def forward(self, x):
        return torch.relu(self.layers(x) + self.shortcut(x))


def resnet50():
    """He 2016."""
    return nn.Sequential(
        conv_bn_2d(3, 16, 7, stride=2),
        nn.MaxPool2d(3, 2, 1),
        Bottleneck2d(16, 16, 64),
        Bottleneck2d(64, 16, 64),
        Bottleneck2d(64, 32, 96, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


class InvertedResidual2d(nn.Module):
    """MobileNetV2's."""

    def __init__(self, channels, filters, stride, expand):
        super().__init__()
        inner = channels * expand
        self.joined = stride == 1 and channels == filters
        first = [conv_bn_2d(channels, inner, 1, act=nn.ReLU6)] if expand > 1 else []
        self.layers = nn.Sequential(
            *first,
            conv_bn_2d(inner, inner, 3, stride=stride, groups=inner, act=nn.ReLU6),
            conv_bn_2d(inner, filters, 1, act=None),
        )

    def forward(self, x):
        return x + self.layers(x) if self.joined else self.layers(x)


def mobilenet_v2():
    """Sandler 2018."""
    return nn.Sequential(
        conv_bn_2d(3, 16, 3, stride=2, act=nn.ReLU6),
        InvertedResidual2d(16, 8, 1, 1),
        InvertedResidual2d(8, 16, 2, 6),
        InvertedResidual2d(16, 16, 1, 6),
        conv_bn_2d(16, 64, 1, act=nn.ReLU6),
        _pooled(),
        nn.Linear(64, 10),
    )


class UNet2d(nn.Module):
    """Ronneberger 2015: pools down, transposed convolutions of kernel 2 up, concatenations."""

    def __init__(self, channels=(16, 32, 64), classes=2):
        super().__init__()
        reads = (3, *channels)
        self.down = nn.ModuleList(map(self.double, reads[:-1], channels))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * n, n, 2, 2) for n in reversed(channels[:-1]))
        self.after = nn.ModuleList(self.double(2 * n, n) for n in reversed(channels[:-1]))
        self.out = nn.Conv2d(channels[0], classes, 1)

    @staticmethod
    def double(channels, filters):
        return nn.Sequential(conv_bn_2d(channels, filters, 3), conv_bn_2d(filters, filters, 3))

    def forward(self, x):
        passed = []
        for number, layer in enumerate(self.down):
            x = layer(x if number == 0 else functional.max_pool2d(x, 2))
            passed.append(x)
        for up, after, beside in zip(self.up, self.after, passed[-2::-1], strict=True):
            x = after(torch.cat([beside, up(x)], 1))
        return self.out(x)


class C3DTransformer(nn.Module):
    """C3D's first layers, and a Transformer's encoder over the frames that they leave."""

    def __init__(self, width=48, frames=4):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv3d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 2, 2), (1, 2, 2))),
            *(nn.Conv3d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2)),
            *(nn.Conv3d(32, width, 3, padding=1), nn.ReLU()),
        )
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.1 * torch.randn(1, frames + 1, width))
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, activation="gelu", batch_first=True, norm_first=True
            ),
            2,
            enable_nested_tensor=False,
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.features(x).mean((3, 4)).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(self.norm(self.encoder(x)[:, 0]))
