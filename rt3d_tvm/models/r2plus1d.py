"""R(2+1)D-18 (Tran et al. 2018): a residual network whose 3D convolutions are factored."""

from __future__ import annotations

from torch import nn

from rt3d_tvm.models.video_resnet import ResidualBlock, ResidualNetwork18, stage_filters

_STEM_MIDDLE = 45


def _factored(channels: int, middle: int, filters: int, *, stride: int) -> nn.Sequential:
    """A 3x3x3 convolution as 1x3x3 over the plane, then 3x1x1 over the frames."""
    return nn.Sequential(
        nn.Conv3d(channels, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, filters, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


def _block(_index: int, channels: int, filters: int, stride: int) -> ResidualBlock:
    # As many weights as the 3x3x3 convolution that is factored; the block's second pair has the
    # same middle, because the published weights have (hence 230, 460 and 921 channels).
    middle = max(1, 27 * channels * filters // (9 * channels + 3 * filters))

    def conv(channels: int, filters: int, stride: int) -> nn.Sequential:
        return _factored(channels, middle, filters, stride=stride)

    return ResidualBlock(channels, filters, conv, stride=stride, frames=stride)


class R2Plus1D18(ResidualNetwork18):
    """R(2+1)D-18 for clips of any size: [batch, 3, frames, h, w] -> [batch, num_classes].

    ``width`` scales every filter count.
    """

    def __init__(self, *, num_classes: int = 101, width: float = 1.0) -> None:
        middle, channels = max(1, round(_STEM_MIDDLE * width)), stage_filters(width)[0]
        stem = nn.Sequential(
            nn.Conv3d(3, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, channels, (3, 1, 1), 1, (1, 0, 0), bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
        )
        super().__init__(stem, _block, num_classes=num_classes, width=width)
