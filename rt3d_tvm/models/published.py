"""The names under which other projects publish weights of the networks of `MODELS`.

Weights of torchvision need none of this: its names are the networks' own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A norm that only the published network has, behind the convolution ``conv`` without a bias.

    Its factors go into the convolution's weights, what it adds into the bias of the norm
    ``beside``, whose output is added to its own.
    """

    norm: str
    conv: str
    beside: str
    eps: float = 1e-5

    def apply_(self, tensors: dict[str, Tensor]) -> None:
        """Change the tensors so; nothing where one of them is missing or of another length."""
        weight, bias = f"{self.conv}.weight", f"{self.beside}.bias"
        kinds = ("weight", "bias", "running_mean", "running_var")
        norm = [f"{self.norm}.{kind}" for kind in kinds]
        lengths = {tensors[n].shape[:1] if n in tensors else None for n in (weight, bias, *norm)}
        if None in lengths or len(lengths) != 1:
            return
        scale, shift, mean, variance = (tensors[name].double() for name in norm)
        scale = scale / (variance + self.eps).sqrt()
        old, added = tensors[weight], tensors[bias]
        factors = scale.reshape(-1, *[1] * (old.dim() - 1))
        tensors[weight] = (old.double() * factors).to(old.dtype)
        tensors[bias] = (added.double() + shift - mean * scale).to(added.dtype)
        for name in [name for name in tensors if name.startswith(f"{self.norm}.")]:
            del tensors[name]


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How a project, ``source``, names the tensors of a network, ``model``.

    ``names`` matches each of its names whole. ``steps`` are substitutions, which in turn make a
    name of this project of it. ``skipped`` are names of what is no layer's: the mean and deviation
    of pixels. ``fold`` is what is in its network alone. ``clips`` are the options that say how the
    weights' training made its clips, where `ModelSpec.preprocessing` has them otherwise.
    """

    source: str
    model: str
    names: re.Pattern[str]
    steps: tuple[tuple[str, str], ...]
    skipped: tuple[str, ...] = ()
    fold: Fold | None = None
    clips: str | None = None

    @property
    def said(self) -> str:
        """Whose names they are, for a message."""
        return f"named as {self.source} names {self.model}"

    @property
    def note(self) -> str:
        """What to know of weights with these names."""
        other = f"; the clips of its training are those of {self.clips}" if self.clips else ""
        return f"{self.said}{other}"

    def translated(
        self, state: Mapping[str, Tensor], own: Mapping[str, Tensor]
    ) -> dict[str, Tensor] | None:
        """The tensors by the names of a model's ``own``; a name that is none of the naming's stays.

        None for a file that mixes names: some are the model's as they are, or two mean one tensor.
        """
        found: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if name in self.skipped:
                continue
            theirs = self.names.fullmatch(name) is not None
            new = self._own(name) if theirs else name
            if new in found or (not theirs and new in own):
                return None
            found[new] = _of_points(tensor, own[new]) if new in own else tensor
        if self.fold is not None:
            self.fold.apply_(found)
        return found

    def _own(self, name: str) -> str:
        for pattern, replacement in self.steps:
            name = re.sub(pattern, replacement, name)
        return name


def _of_points(tensor: Tensor, own: Tensor) -> Tensor:
    """The weight of a linear layer as that of the convolution of 1x1x1 that it is."""
    missing = own.shape[tensor.dim() :]
    return tensor.reshape(*tensor.shape, *missing) if set(missing) == {1} else tensor


_PIXELS_OF_MMACTION = ("data_preprocessor.mean", "data_preprocessor.std")

# Layers of a sequence by their places in it.
_C3D_IN_SEQUENCE = (
    *(("features.0", "conv1"), ("features.3", "conv2")),
    *(("features.6", "conv3a"), ("features.8", "conv3b")),
    *(("features.11", "conv4a"), ("features.13", "conv4b")),
    *(("features.16", "conv5a"), ("features.18", "conv5b")),
    *(("classifier.0", "fc6"), ("classifier.3", "fc7"), ("classifier.6", "fc8")),
)

# SlowFast's X3D has a norm on the shortcut that keeps the channels and takes steps.
_X3D_FOLD = Fold(
    norm="blocks.1.res_blocks.0.branch1_norm",
    conv="blocks.1.res_blocks.0.branch1_conv",
    beside="blocks.1.res_blocks.0.branch2.norm_c",
)

NAMINGS = (
    # C3D: of Sports-1M, without a head; of UCF101.
    Naming(
        source="mmaction2",
        model="c3d",
        names=re.compile(r"(backbone\.)?(conv\d[ab]\.conv|fc[67])\.\w+|cls_head\.fc_cls\.\w+"),
        steps=(
            (r"^backbone\.", ""),
            (r"^conv([12])a\.", r"conv\1."),
            (r"\.conv\.", "."),
            (r"^cls_head\.fc_cls\.", "fc8."),
        ),
        skipped=_PIXELS_OF_MMACTION,
        clips="--resize 128",
    ),
    # C3D of Sports-1M, without a head, which reads the colours as OpenCV gives them.
    Naming(
        source="pytorch-video-recognition",
        model="c3d",
        names=re.compile(r"(features|classifier)\.\d+\.\w+"),
        steps=tuple((rf"^{place}\.", f"{own}.") for place, own in _C3D_IN_SEQUENCE),
        clips="--colour-order bgr --mean 0.4,0.384,0.353 --std 0.00392,0.00392,0.00392",
    ),
    # R(2+1)D-34 of Kinetics-400.
    Naming(
        source="mmaction2",
        model="r2plus1d_34_mmaction2",
        names=re.compile(
            r"backbone\.(conv1|layer\d\.\d+\.(conv[12]|downsample))"
            r"\.(conv\.(conv|bn)_[st]|bn)\.\w+|cls_head\.fc_cls\.\w+"
        ),
        steps=(
            (r"^cls_head\.fc_cls\.", "fc."),
            *((r"\.conv\.conv_s\.", ".0.0."), (r"\.conv\.bn_s\.", ".0.1.")),
            *((r"\.conv\.conv_t\.", ".0.3."), (r"\.bn\.", ".1.")),
            # The stem has both in one sequence.
            *((r"^backbone\.conv1\.0\.", "stem."), (r"^backbone\.conv1\.1\.", "stem.4.")),
            (r"^backbone\.", ""),
        ),
        skipped=_PIXELS_OF_MMACTION,
    ),
    # S3D of Kinetics-400.
    Naming(
        source="kylemin/S3D",
        model="s3d",
        names=re.compile(r"base\.\d+\.(branch\d\.\d\.)?(conv|bn)(_[st])?\.\w+|fc\.0\.\w+"),
        steps=(
            (r"^base\.", "features."),
            (r"^fc\.0\.", "classifier.1."),
            (r"\.branch0\.0\.", ".branch0."),
            *((r"\.conv_s\.", ".0.0."), (r"\.bn_s\.", ".0.1.")),
            *((r"\.conv_t\.", ".1.0."), (r"\.bn_t\.", ".1.1.")),
            *((r"\.conv\.", ".0."), (r"\.bn\.", ".1.")),
        ),
        clips="--mean 0.5,0.5,0.5 --std 0.5,0.5,0.5",
    ),
    # X3D of Kinetics-400, as SlowFast publishes it.
    Naming(
        source="mmaction2",
        model="x3d",
        names=re.compile(
            r"backbone\.(conv1_[st]|conv5|layer\d\.\d+\.(conv[123]|downsample))\.(conv|bn)\.\w+"
            r"|backbone\.layer\d\.\d+\.se_module\.fc[12]\.\w+|cls_head\.fc[12]\.\w+"
        ),
        steps=(
            (r"^backbone\.conv1_s\.conv", "blocks.0.conv.conv_t"),
            (r"^backbone\.conv1_t\.conv", "blocks.0.conv.conv_xy"),
            (r"^backbone\.conv1_t\.bn", "blocks.0.norm"),
            (r"^backbone\.conv5\.conv", "blocks.5.pool.pre_conv"),
            (r"^backbone\.conv5\.bn", "blocks.5.pool.pre_norm"),
            (r"^cls_head\.fc1", "blocks.5.pool.post_conv"),
            (r"^cls_head\.fc2", "blocks.5.proj"),
            (r"^backbone\.layer(\d)\.(\d+)", r"blocks.\1.res_blocks.\2"),
            *((r"\.conv1\.conv", ".branch2.conv_a"), (r"\.conv1\.bn", ".branch2.norm_a")),
            *((r"\.conv2\.conv", ".branch2.conv_b"), (r"\.conv2\.bn", ".branch2.norm_b.0")),
            *((r"\.conv3\.conv", ".branch2.conv_c"), (r"\.conv3\.bn", ".branch2.norm_c")),
            (r"\.se_module\.fc1", ".branch2.norm_b.1.block.0"),
            (r"\.se_module\.fc2", ".branch2.norm_b.1.block.2"),
            *((r"\.downsample\.conv", ".branch1_conv"), (r"\.downsample\.bn", ".branch1_norm")),
        ),
        skipped=_PIXELS_OF_MMACTION,
        fold=_X3D_FOLD,
    ),
    Naming(
        source="SlowFast",
        model="x3d",
        names=re.compile(
            r"s1\.pathway0_stem\.(conv_xy|conv|bn)\.\w+"
            r"|s[2-5]\.pathway0_res\d+\.(branch1|branch1_bn|branch2\.([abc](_bn)?|se\.fc[12]))\.\w+"
            r"|head\.(conv_5|conv_5_bn|lin_5|projection)\.\w+"
        ),
        steps=(
            (r"^s1\.pathway0_stem\.conv_xy", "blocks.0.conv.conv_t"),
            (r"^s1\.pathway0_stem\.conv", "blocks.0.conv.conv_xy"),
            (r"^s1\.pathway0_stem\.bn", "blocks.0.norm"),
            *((rf"^s{n}\.pathway0_res", f"blocks.{n - 1}.res_blocks.") for n in (2, 3, 4, 5)),
            *((r"\.branch1\.", ".branch1_conv."), (r"\.branch1_bn\.", ".branch1_norm.")),
            *((r"\.b_bn\.", ".norm_b.0."), (r"\.([ac])_bn\.", r".norm_\1.")),
            (r"\.branch2\.([abc])\.", r".branch2.conv_\1."),
            *((r"\.se\.fc1\.", ".norm_b.1.block.0."), (r"\.se\.fc2\.", ".norm_b.1.block.2.")),
            (r"^head\.conv_5\.", "blocks.5.pool.pre_conv."),
            (r"^head\.conv_5_bn\.", "blocks.5.pool.pre_norm."),
            (r"^head\.lin_5\.", "blocks.5.pool.post_conv."),
            (r"^head\.projection\.", "blocks.5.proj."),
        ),
        fold=_X3D_FOLD,
    ),
)
