"""The paper's networks, other published ones, the user's own: what each takes, how to build one.

The table can be read without torch; only `build_model` imports it. A network of the user's own is
named ``package.module:function``, see `rt3d_tvm.models.own`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
from rt3d_tvm.errors import InputError
from rt3d_tvm.models.specs import CLIP_MODELS, MODELS, RATED_MODELS, ModelSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "CLIP_MODELS",
    "MODELS",
    "RATED_MODELS",
    "ModelSpec",
    "build_model",
    "clip_model_spec",
    "is_own",
    "model_spec",
]

# Refused before memory is asked for: 8 GB of weights.
_MOST_PARAMETERS = 2**31


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
        clips = ", ".join(known.name for known in MODELS.values() if known.frames is not None)
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
    from rt3d_tvm.models.r2plus1d import MMActionR2Plus1D34, R2Plus1D18, R2Plus1D34
    from rt3d_tvm.models.r2plus1d_50 import R2Plus1D50
    from rt3d_tvm.models.resnet50 import ResNet50
    from rt3d_tvm.models.s3d import S3D
    from rt3d_tvm.models.vgg16 import VGG16
    from rt3d_tvm.models.video_resnet import VideoResNet18
    from rt3d_tvm.models.x3d import X3D

    of_any_size: dict[str, Callable[..., nn.Module]] = {
        "r2plus1d": R2Plus1D18,
        "r2plus1d_34": R2Plus1D34,
        "r2plus1d_34_mmaction2": MMActionR2Plus1D34,
        "r2plus1d_50": R2Plus1D50,
        "x3d_xs": partial(X3D, depths=(3, 5, 11, 7), window=(4, 5, 5)),
        "x3d_s": partial(X3D, depths=(3, 5, 11, 7), window=(13, 5, 5)),
        "x3d_m": partial(X3D, depths=(3, 5, 11, 7), window=(16, 7, 7)),
        "x3d_l": partial(X3D, depths=(5, 10, 25, 15), window=(16, 10, 10)),
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
