"""VGG-16 (Simonyan and Zisserman 2015): thirteen 3x3 convolutions, three linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt3d_tvm.errors import InputError

# Filters of the convolutions in each stage; a pooling that halves the plane ends it.
_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_HIDDEN = 4096


class VGG16(nn.Module):
    """VGG-16 for pictures of a fixed size: [batch, 3, size, size] -> [batch, num_classes].

    Keys and shapes of the state dict are torchvision's, so that its published weights load
    unchanged (1000 classes, 224 x 224, where its adaptive pooling does nothing). ``width`` scales
    the filters and the hidden units. InputError for a picture smaller than 32 x 32.
    """

    def __init__(self, *, num_classes: int = 1000, width: float = 1.0, size: int = 224) -> None:
        super().__init__()
        if size < 32:
            raise InputError(
                f"VGG-16 needs pictures of at least 32x32, got {size}x{size}: its poolings halve "
                "the plane five times"
            )
        channels, layers = 3, []
        for stage in _STAGES:
            for filters in stage:
                filters = max(1, round(filters * width))
                layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(inplace=True)]
                channels = filters
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden = max(1, round(_HIDDEN * width))
        self.classifier = nn.Sequential(
            nn.Linear(channels * (size // 32) ** 2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, picture: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(picture), 1))
