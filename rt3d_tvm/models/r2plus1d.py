"""R(2+1)D (Tran et al. 2018): residual networks whose 3D convolutions are factored.

R(2+1)D-18 as torchvision publishes it, and R(2+1)D-34 as two projects do, of which no two are the
same network.
"""

from __future__ import annotations

from torch import nn

from rt3d_tvm.models.video_resnet import ResidualBlock, ResidualNetwork, stage_filters

_STEM_MIDDLE = 45
_BLOCKS_34 = (3, 4, 6, 3)
# Of norms that were trained in Caffe2; eps is part of the function they compute.
_CAFFE2_EPS = 1e-3


def _middle(channels: int, filters: int, kernel: tuple[int, int] = (3, 3)) -> int:
    """Channels between the two: as many weights as the convolution that is factored.

    ``kernel`` is its extent along the frames and in the plane.
    """
    frames, plane = kernel[0], kernel[1] ** 2
    whole = frames * plane * channels * filters
    return max(1, whole // (plane * channels + frames * filters))


def _factored(
    channels: int, middle: int, filters: int, *, stride: int, kernel: int = 3
) -> nn.Sequential:
    """A cubic convolution as 1 x k x k over the plane, then k x 1 x 1 over the frames."""
    k, pad = kernel, kernel // 2
    return nn.Sequential(
        nn.Conv3d(channels, middle, (1, k, k), (1, stride, stride), (0, pad, pad), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, filters, (k, 1, 1), (stride, 1, 1), (pad, 0, 0), bias=False),
    )


def _own_middle(channels: int, filters: int, stride: int) -> nn.Sequential:
    return _factored(channels, _middle(channels, filters), filters, stride=stride)


def _factored_point(channels: int, filters: int, stride: int) -> nn.Sequential:
    middle = _middle(channels, filters, (3, 1))
    return _factored(channels, middle, filters, stride=stride, kernel=1)


def _block_18(_index: int, channels: int, filters: int, stride: int) -> ResidualBlock:
    # The block's second pair has the middle of its first, because the published weights have
    # (hence 230, 460 and 921 channels).
    middle = _middle(channels, filters)

    def conv(channels: int, filters: int, stride: int) -> nn.Sequential:
        return _factored(channels, middle, filters, stride=stride)

    return ResidualBlock(channels, filters, conv, stride=stride, frames=stride)


def _block_34(_index: int, channels: int, filters: int, stride: int) -> ResidualBlock:
    return ResidualBlock(channels, filters, _own_middle, stride=stride, frames=stride)


def _block_34_mmaction(_index: int, channels: int, filters: int, stride: int) -> ResidualBlock:
    return ResidualBlock(
        channels, filters, _own_middle, stride=stride, frames=stride, shortcut=_factored_point
    )


def _stem(middle: int, channels: int) -> list[nn.Module]:
    return [
        nn.Conv3d(3, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, channels, (3, 1, 1), 1, (1, 0, 0), bias=False),
        nn.BatchNorm3d(channels),
        nn.ReLU(inplace=True),
    ]


class R2Plus1D18(ResidualNetwork):
    """R(2+1)D-18 for clips of any size: [batch, 3, frames, h, w] -> [batch, num_classes].

    ``width`` scales every filter count.
    """

    def __init__(self, *, num_classes: int = 101, width: float = 1.0) -> None:
        middle, channels = max(1, round(_STEM_MIDDLE * width)), stage_filters(width)[0]
        stem = nn.Sequential(*_stem(middle, channels))
        super().__init__(stem, _block_18, num_classes=num_classes, width=width)


class R2Plus1D34(ResidualNetwork):
    """R(2+1)D-34 as VMZ publishes it, trained on IG-65M, in torchvision's names.

    Clips and ``width`` as of `R2Plus1D18`.
    """

    def __init__(self, *, num_classes: int = 400, width: float = 1.0) -> None:
        middle, channels = max(1, round(_STEM_MIDDLE * width)), stage_filters(width)[0]
        super().__init__(
            nn.Sequential(*_stem(middle, channels)),
            _block_34,
            num_classes=num_classes,
            width=width,
            blocks=_BLOCKS_34,
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = _CAFFE2_EPS


class MMActionR2Plus1D34(ResidualNetwork):
    """R(2+1)D-34 as mmaction2 publishes it, in names like torchvision's.

    It pools behind a wider stem and factors its shortcuts too. Clips and ``width`` as of
    `R2Plus1D18`.
    """

    def __init__(self, *, num_classes: int = 400, width: float = 1.0) -> None:
        channels = stage_filters(width)[0]
        pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        super().__init__(
            nn.Sequential(*_stem(_middle(3, channels, (3, 7)), channels), pool),
            _block_34_mmaction,
            num_classes=num_classes,
            width=width,
            blocks=_BLOCKS_34,
        )
        # Only those behind a pair, not those inside it.
        self.stem[4].eps = _CAFFE2_EPS
        for block in (module for module in self.modules() if isinstance(module, ResidualBlock)):
            for behind in (block.conv1, block.conv2, block.downsample):
                if behind is not None:
                    behind[1].eps = _CAFFE2_EPS
