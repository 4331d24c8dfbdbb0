"""The paper's networks, other published ones, the user's own: what each takes, how to build one.

The table can be read without torch; only `build_model` imports it. A network of the user's own is
named ``package.module:function``, see `rt3d_tvm.models.own`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
from rt3d_tvm.data.preprocessing import Preprocessing
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from torch import nn

# How the published weights of the networks of pictures want them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Refused before memory is asked for: 8 GB of weights, and clips 300 times as large as the paper's.
_MOST_PARAMETERS = 2**31
_MOST_PIXELS = 2**26


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A network at the size the paper reports.

    A pixel goes in as ``(rgb / 255 - mean) / std``, after the frames were resized to ``resize``
    (height, width) and the middle ``size`` x ``size`` was cut out. ``paper_rate`` is the pruning
    rate of Table 2, None of a network that is not in it. A network of pictures has no ``frames``;
    its numbers, and those of R3D and MC3, are those published with it. One of the user's own has
    none. ``classifiers`` names the convolutions that are the classifier in disguise:
    like a linear layer, they are counted but not pruned.
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
    resize: tuple[int, int]
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
            frames=self.frames, size=self.size, resize=self.resize, mean=self.mean, std=self.std
        )
        return published.at(frames=frames or self.frames, size=size or self.size)


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
            frames=16,
            size=112,
            num_classes=400,
            paper_params=params,
            paper_macs=macs,
            paper_rate=None,
            mean=KINETICS_MEAN,
            std=KINETICS_STD,
            resize=(128, 171),
        )
        for name, title, params, macs in (
            ("r3d", "R3D-18", 33.37e6, 40.7e9),
            ("mc3", "MC3-18", 11.70e6, 43.3e9),
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


def is_own(name: str) -> bool:
    """Whether a name is that of a network of the user's own, ``package.module:function``."""
    return ":" in name


def model_spec(name: str) -> ModelSpec:
    """The spec of a network by its name; InputError lists the known names.

    One of the user's own takes clips of 16 frames at 112 if nothing else is said. None of its code
    runs here.
    """
    if is_own(name):
        return ModelSpec(
            name=name,
            title=name,
            frames=16,
            size=112,
            num_classes=None,
            paper_params=None,
            paper_macs=None,
            paper_rate=None,
            mean=KINETICS_MEAN,
            std=KINETICS_STD,
            resize=(128, 171),
        )
    if name not in MODELS:
        raise InputError(
            f"no model named {name!r}; known: {', '.join(MODELS)}, and your own as "
            "package.module:function"
        )
    return MODELS[name]


def clip_model_spec(name: str) -> ModelSpec:
    """The spec of a network of clips; InputError for one of pictures, which runs on no video."""
    spec = model_spec(name)
    if spec.frames is None:
        clips = ", ".join(known.name for known in _SPECS if known.frames is not None)
        raise InputError(f"{spec.title} takes pictures, not clips: use {clips}")
    return spec


def build_model(
    name: str,
    num_classes: int | None = None,
    width: float = 1.0,
    *,
    frames: int | None = None,
    size: int | None = None,
    say: Callable[[str], None] | None = None,
) -> nn.Module:
    """Build a network in eval mode, with torch's initial weights.

    ``width`` scales every channel count. ``frames`` and ``size`` matter to C3D and VGG-16 alone,
    whose first linear layer is as long as the features; the others pool over whatever arrives. What
    is left out is taken from `MODELS`. One of the user's own is built by its function, and gets a
    new head if that gives another number of classes, which ``say`` is told. InputError for an
    unknown name or a number out of range.
    """
    spec = model_spec(name)
    num_classes = spec.num_classes if num_classes is None else num_classes
    if num_classes is not None and num_classes < 1:
        raise InputError(f"num_classes must be at least 1, got {num_classes}")
    if not 0 < width <= 4:
        raise InputError(f"width must be above 0 and at most 4, got {width}")
    shape = spec.shape_of(frames, size)
    if is_own(name):
        from rt3d_tvm.models.head import replace_head_
        from rt3d_tvm.models.own import build_own

        own = build_own(name, num_classes=num_classes, width=width, frames=frames, size=size)
        replaced = None if num_classes is None else replace_head_(own, shape, num_classes)
        if replaced is not None and say is not None:
            say(replaced)
        return own
    return _build_published(spec, num_classes, width, frames, size)


def _build_published(
    spec: ModelSpec, num_classes: int | None, width: float, frames: int | None, size: int | None
) -> nn.Module:
    import torch

    from rt3d_tvm.models.c3d import C3D
    from rt3d_tvm.models.mobilenet_v2 import MobileNetV2
    from rt3d_tvm.models.r2plus1d import R2Plus1D18
    from rt3d_tvm.models.resnet50 import ResNet50
    from rt3d_tvm.models.s3d import S3D
    from rt3d_tvm.models.vgg16 import VGG16
    from rt3d_tvm.models.video_resnet import VideoResNet18

    of_any_size: dict[str, Callable[..., nn.Module]] = {
        "r2plus1d": R2Plus1D18,
        "s3d": S3D,
        "r3d": partial(VideoResNet18, depths=(3, 3, 3, 3)),
        "mc3": partial(VideoResNet18, depths=(3, 1, 1, 1)),
        "resnet50": ResNet50,
        "mobilenet_v2": MobileNetV2,
    }
    size = spec.size if size is None else size
    build: Callable[[], nn.Module]
    if spec.name == "c3d":
        frames = spec.frames if frames is None else frames
        build = partial(C3D, num_classes=num_classes, width=width, frames=frames, size=size)
    elif spec.name == "vgg16":
        build = partial(VGG16, num_classes=num_classes, width=width, size=size)
    else:
        build = partial(of_any_size[spec.name], num_classes=num_classes, width=width)
    with torch.device("meta"):  # no memory yet
        parameters = sum(parameter.numel() for parameter in build().parameters())
    if parameters > _MOST_PARAMETERS:
        raise InputError(
            f"{spec.title} of these classes, width and size has {parameters} parameters; at most "
            f"{_MOST_PARAMETERS} are accepted"
        )
    return build().eval()
