"""What many of the architectures are made of."""

import torch
from torch import nn
from torch.nn import functional


def conv_bn(channels, filters, size, *, stride=1, groups=1, act=nn.ReLU, padding=None):
    """A 3D convolution without bias, BatchNorm and an activation; ``act`` None leaves that out."""
    sizes = (size,) * 3 if isinstance(size, int) else size
    padding = tuple(n // 2 for n in sizes) if padding is None else padding
    layers = [
        nn.Conv3d(channels, filters, sizes, stride, padding, groups=groups, bias=False),
        nn.BatchNorm3d(filters),
    ]
    return nn.Sequential(*layers, *([] if act is None else [act()]))


def conv_bn_2d(channels, filters, size, *, stride=1, groups=1, act=nn.ReLU):
    layers = [
        nn.Conv2d(channels, filters, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(filters),
    ]
    return nn.Sequential(*layers, *([] if act is None else [act()]))


class SqueezeExcitation(nn.Module):
    """A factor per channel from the mean of all channels (SENet); 2D or 3D."""

    def __init__(self, conv, channels, squeezed, *, act=nn.ReLU, gate=nn.Sigmoid):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool3d(1) if conv is nn.Conv3d else nn.AdaptiveAvgPool2d(1)
        self.reduce, self.expand = conv(channels, squeezed, 1), conv(squeezed, channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x):
        return x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))


class Residual(nn.Module):
    """act(branch + shortcut): the shortcut is a strided 1x1x1 where the shapes differ."""

    def __init__(self, branch, channels, filters, *, stride=1, act=nn.ReLU):
        super().__init__()
        self.branch, self.act = branch, act()
        same = stride in (1, (1, 1, 1)) and channels == filters
        self.shortcut = (
            nn.Identity() if same else conv_bn(channels, filters, 1, stride=stride, act=None)
        )

    def forward(self, x):
        return self.act(self.branch(x) + self.shortcut(x))


def classifier(channels, classes=10):
    """Global mean and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(channels, classes))


def shuffled(x, groups):
    """Channels of all groups in turns (ShuffleNet)."""
    batch, channels, *sides = x.shape
    x = x.view(batch, groups, channels // groups, *sides).transpose(1, 2)
    return x.reshape(batch, channels, *sides)


def same_padded(x, size, stride):
    """TensorFlow's padding SAME, which may be uneven (I3D); zeros."""
    pads = []
    for side, kernel, step in reversed(list(zip(x.shape[2:], size, stride, strict=True))):
        total = max((-(-side // step) - 1) * step + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads)


def seeded_(model, seed=0):
    """Weights of He's size and BatchNorms that are not the identity, so that mistakes show."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() > 1:
            # What one output is a sum of: the shape of a transposed weight says it on axis 0.
            transposed = isinstance(module, (nn.ConvTranspose2d, nn.ConvTranspose3d))
            terms = weight.shape[0] if transposed else weight[0].numel()
            weight.data.normal_(0, (2 / terms) ** 0.5, generator=generator)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.1, generator=generator)
    return model
