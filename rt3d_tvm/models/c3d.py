"""C3D (Tran et al. 2015): eight 3x3x3 convolutions, five poolings, three linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt3d_tvm.errors import InputError

_FILTERS = {
    "conv1": 64,
    "conv2": 128,
    "conv3a": 256,
    "conv3b": 256,
    "conv4a": 512,
    "conv4b": 512,
    "conv5a": 512,
    "conv5b": 512,
}
_HIDDEN = 4096


def _features_extent(frames: int, size: int) -> tuple[int, int]:
    """(frames, size) after the last pooling; InputError where nothing would be left."""
    if frames < 16 or size < 16:
        raise InputError(
            f"C3D needs at least 16 frames of 16x16, got {frames} of {size}x{size}: "
            "its poolings halve the frames four times and the plane five times"
        )
    # The last pooling pads the plane by one on each side, as the published weights expect.
    return frames // 16, (size // 16 + 2) // 2


class C3D(nn.Module):
    """C3D for clips of a fixed size: [batch, 3, frames, size, size] -> [batch, num_classes].

    Layer names are those of the PyTorch weights in circulation. ``width`` scales the filters of
    each convolution and the hidden units. InputError for a clip smaller than 16 x 16 x 16.
    """

    def __init__(
        self, *, num_classes: int = 101, width: float = 1.0, frames: int = 16, size: int = 112
    ) -> None:
        super().__init__()
        channels = 3
        for name, filters in _FILTERS.items():
            filters = max(1, round(filters * width))
            self.add_module(name, nn.Conv3d(channels, filters, 3, padding=1))
            channels = filters
        self.relu = nn.ReLU()
        # The first pooling leaves the frames alone, so that motion is not merged too early.
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.pool = nn.MaxPool3d(2)
        self.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1))
        depth, side = _features_extent(frames, size)
        hidden = max(1, round(_HIDDEN * width))
        self.fc6 = nn.Linear(channels * depth * side * side, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)
        self.dropout = nn.Dropout(0.5)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.pool1(self.relu(self.conv1(clip)))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.pool(self.relu(self.conv3b(self.relu(self.conv3a(x)))))
        x = self.pool(self.relu(self.conv4b(self.relu(self.conv4a(x)))))
        x = self.pool5(self.relu(self.conv5b(self.relu(self.conv5a(x)))))
        x = torch.flatten(x, 1)
        x = self.dropout(self.relu(self.fc6(x)))
        x = self.dropout(self.relu(self.fc7(x)))
        return self.fc8(x)
