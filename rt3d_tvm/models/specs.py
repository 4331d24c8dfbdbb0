"""The networks: what each takes, its size and its published numbers. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
from rt3d_tvm.data.preprocessing import Preprocessing
from rt3d_tvm.errors import InputError

# How the published weights of the networks of pictures want them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Refused before memory is asked for: clips 300 times as large as the paper's.
_MOST_PIXELS = 2**26


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A network at the size the paper reports.

    A pixel goes in as ``(rgb / 255 - mean) / std``, after the frames, ``stride`` apart, were
    resized to ``resize`` (the short side, or height and width) and the middle ``size`` x ``size``
    was cut out. ``paper_rate`` is the pruning rate of Table 2, None of a network that is not in it.
    A network of pictures has no ``frames``; its numbers, and those of other networks without a
    rate, are those published with it. One of the user's own has none. ``classifiers`` names the
    convolutions that are the classifier in disguise: like a linear layer, they are counted but not
    pruned.
    """

    name: str
    title: str
    frames: int | None
    size: int
    num_classes: int | None
    paper_params: float | None
    paper_macs: float | None
    paper_rate: float | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int | tuple[int, int]
    stride: int = 1
    channels: int = 3
    classifiers: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One clip (batch, channels, frames, height, width), or one picture, without frames."""
        return self.shape_of()

    def shape_of(self, frames: int | None = None, size: int | None = None) -> tuple[int, ...]:
        """The shape of an input of other frames or size.

        InputError for frames of pictures, and for more pixels than any machine runs a model on.
        """
        size = size or self.size
        if self.frames is None and frames is not None:
            raise InputError(f"{frames} frames: {self.title} takes pictures, which have none")
        planes = () if self.frames is None else (frames or self.frames,)
        if (pixels := prod(planes) * size**2) > _MOST_PIXELS:
            many = f"{planes[0]} frames of " if planes else ""
            raise InputError(
                f"{many}{size}x{size}: {pixels} pixels; at most {_MOST_PIXELS} are accepted"
            )
        return (1, self.channels, *planes, size, size)

    def rate(self, given: float | None) -> float:
        """The pruning rate: the one given, or the paper's. InputError where there is neither."""
        rate = self.paper_rate if given is None else given
        if rate is None:
            raise InputError(f"a rate is needed: the paper has none for {self.title}")
        return rate

    def preprocessing(self, frames: int | None = None, size: int | None = None) -> Preprocessing:
        """How the weights in circulation want one clip, for clips of other sizes in proportion.

        InputError for a network of pictures.
        """
        if self.frames is None:
            raise InputError(f"{self.title} takes pictures, not clips")
        published = Preprocessing(
            frames=self.frames,
            size=self.size,
            resize=self.resize,
            mean=self.mean,
            std=self.std,
            stride=self.stride,
        )
        return published.at(frames=frames or self.frames, size=size or self.size)


# How pytorchvideo's want them.
_GREY_MEAN, _GREY_STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)

_SPECS = (
    ModelSpec(
        name="c3d",
        title="C3D",
        frames=16,
        size=112,
        num_classes=101,
        paper_params=78.41e6,
        paper_macs=38.5e9,
        paper_rate=3.6,
        # The Sports-1M weights in circulation want 0..255 with this mean taken off, unscaled.
        mean=(104 / 255, 117 / 255, 128 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
        resize=(128, 171),
    ),
    ModelSpec(
        name="r2plus1d",
        title="R(2+1)D-18",
        frames=16,
        size=112,
        num_classes=101,
        paper_params=31.35e6,
        paper_macs=40.5e9,
        paper_rate=3.2,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        resize=(128, 171),
    ),
    ModelSpec(
        name="s3d",
        title="S3D",
        frames=16,
        size=224,
        num_classes=400,
        paper_params=8.32e6,
        paper_macs=18.0e9,
        paper_rate=2.1,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        resize=(256, 256),
        classifiers=("classifier.1",),
    ),
    *(
        ModelSpec(
            name=name,
            title=title,
            frames=frames,
            size=112,
            num_classes=400,
            paper_params=params,
            paper_macs=macs,
            paper_rate=None,
            mean=KINETICS_MEAN,
            std=KINETICS_STD,
            resize=(128, 171),
        )
        for name, title, frames, params, macs in (
            ("r3d", "R3D-18", 16, 33.37e6, 40.7e9),
            ("mc3", "MC3-18", 16, 11.70e6, 43.3e9),
            ("r2plus1d_34", "R(2+1)D-34", 32, 63.70e6, 152.4e9),
        )
    ),
    ModelSpec(
        name="r2plus1d_34_mmaction2",
        title="R(2+1)D-34 (mmaction2)",
        frames=8,
        size=224,
        num_classes=400,
        paper_params=63.76e6,
        paper_macs=40.56e9,
        paper_rate=None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        resize=256,
        stride=8,
    ),
    *(
        ModelSpec(
            name=name,
            title=title,
            frames=frames,
            size=size,
            num_classes=400,
            paper_params=params,
            paper_macs=macs,
            paper_rate=None,
            mean=_GREY_MEAN,
            std=_GREY_STD,
            resize=resize,
            stride=stride,
        )
        for name, title, frames, stride, size, resize, params, macs in (
            ("r2plus1d_50", "R(2+1)D-50", 16, 4, 224, 256, 28.11e6, 57.53e9),
            ("x3d_xs", "X3D-XS", 4, 12, 160, 182, 3.794e6, 0.605e9),
            ("x3d_s", "X3D-S", 13, 6, 160, 182, 3.794e6, 1.963e9),
            ("x3d_m", "X3D-M", 16, 5, 224, 256, 3.794e6, 4.732e9),
            ("x3d_l", "X3D-L", 16, 5, 312, 356, 6.153e6, 18.37e9),
        )
    ),
    *(
        ModelSpec(
            name=name,
            title=title,
            frames=None,
            size=224,
            num_classes=1000,
            paper_params=params,
            paper_macs=macs,
            paper_rate=2.6,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            resize=(256, 256),
        )
        for name, title, params, macs in (
            ("vgg16", "VGG-16", 138.36e6, 15.47e9),
            ("resnet50", "ResNet-50", 25.56e6, 4.09e9),
            ("mobilenet_v2", "MobileNet-V2", 3.505e6, 0.301e9),
        )
    ),
)
MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _SPECS}
# Those that there is a rate of to compare with; and of them those of the paper's tables, of clips.
RATED_MODELS = tuple(spec.name for spec in _SPECS if spec.paper_rate is not None)
CLIP_MODELS = tuple(name for name in RATED_MODELS if MODELS[name].frames is not None)
