"""Small networks of the forms that published ones have: what their exports need of the compiler."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Classifier(nn.Module):
    """A video classifier: padding "same", depthwise, squeeze-and-excitation, shuffle, shift, head.

    The head is pytorchvideo's: a window of the last feature map's size, a Linear over channels
    last, the softmax of evaluation, the mean over what places are left, a view by the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 16, (1, 3, 3), stride=(1, 2, 2), bias=False)
        self.norm = nn.BatchNorm3d(16)
        self.depthwise = nn.Conv3d(16, 16, (3, 3, 3), groups=16, padding=1)
        self.squeeze, self.excite = nn.Conv3d(16, 4, 1), nn.Conv3d(4, 16, 1)
        self.grouped = nn.Conv3d(16, 24, 1, groups=2)
        self.head_pool = nn.AvgPool3d((2, 4, 4), stride=1)
        self.head = nn.Linear(24, 7)
        self.output_pool = nn.AdaptiveAvgPool3d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of clips [N, 3, 4, 16, 16]."""
        rows, columns = ((-(-size // 2) - 1) * 2 + 3 - size for size in x.shape[-2:])
        sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        x = self.norm(self.stem(F.pad(x, sides)))
        x = x * torch.sigmoid(x)
        x = F.hardswish(self.depthwise(x))
        scale = x.mean((2, 3, 4), keepdim=True)
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(scale))))
        batch, channels, *rest = x.shape
        x = x.view(batch, 4, channels // 4, *rest).transpose(1, 2).reshape(batch, channels, *rest)
        shifted = torch.zeros_like(x)  # TSM's shift in time
        shifted[:, :4, :-1] = x[:, :4, 1:]
        shifted[:, 4:8, 1:] = x[:, 4:8, :-1]
        shifted[:, 8:] = x[:, 8:]
        x = F.max_pool3d(F.gelu(self.grouped(shifted)), (1, 2, 2))
        x = self.head_pool(x).permute(0, 2, 3, 4, 1)
        x = torch.softmax(self.head(x), dim=-1).permute(0, 4, 1, 2, 3)
        x = self.output_pool(x)
        return x.as_strided((x.shape[0], 7), (7, 1))


class Segmenter(nn.Module):
    """A U-Net: instance and group norms, PReLU, both ways up, skips of another size, ELU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True), nn.PReLU(8)
        )
        self.down = nn.Sequential(
            nn.Conv3d(8, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16), nn.LeakyReLU()
        )
        self.deep = nn.Sequential(nn.Conv3d(16, 16, 3, stride=2, padding=1), nn.ELU())
        self.up = nn.ConvTranspose3d(16, 16, 3, stride=2, padding=1, output_padding=1)
        self.joint = nn.Conv3d(32, 8, 1)
        self.last = nn.Conv3d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of volumes [N, 1, 9, 10, 12]."""
        high = self.first(x)
        middle = self.down(high)
        low = self.up(self.deep(middle))
        lacking = [middle.size(axis) - low.size(axis) for axis in (4, 3, 2)]
        low = F.pad(low, [side for each in lacking for side in (each // 2, each - each // 2)])
        middle = F.softplus(self.joint(torch.cat([middle, low], 1)))
        size = high.shape[2:]
        wide = F.interpolate(middle, size=size, mode="trilinear", align_corners=False)
        return torch.log_softmax(self.last(torch.cat([high, wide], 1)), 1)


class Lipreader(nn.Module):
    """Frames through a 2D trunk, attention over time, a temporal convolution, cut, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv3d(1, 8, (5, 3, 3), stride=(1, 2, 2), padding=(2, 1, 1))
        self.trunk = nn.Conv2d(8, 16, 3, padding=1)
        self.temporal = nn.Conv1d(16, 16, 3, padding=4, dilation=2)
        self.norm = nn.LayerNorm(16)
        self.query = nn.Linear(16, 16)
        self.classes = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of [N, 1, 6, 8, 8]."""
        batch, _, frames, *_ = x.shape
        x = F.silu(self.front(x)).transpose(1, 2)
        x = x.reshape(batch * frames, *x.shape[2:])
        x = F.adaptive_avg_pool2d(F.mish(self.trunk(x)), 1).view(batch, frames, -1)
        x = self.temporal(x.transpose(1, 2))[:, :, :-4].transpose(1, 2)
        x = self.norm(x)
        weights = torch.softmax(self.query(x) @ x.transpose(1, 2) / 4, -1)
        first, second = (weights @ x).chunk(2, dim=-1)
        x = torch.cat([first.sum(1), second.amax(1)], -1)
        return self.classes(x / x.norm(dim=-1, keepdim=True))


NETWORKS = {
    Classifier: (1, 3, 4, 16, 16),
    Segmenter: (1, 1, 9, 10, 12),
    Lipreader: (2, 1, 6, 8, 8),
}
