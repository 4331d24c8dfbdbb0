"""The names under which other projects publish weights of the networks of `MODELS`.

Weights of torchvision need none of this: its names are the networks' own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How a project, ``source``, names the tensors of a network.

    ``names`` matches each of its names whole. ``steps`` are substitutions, which in turn make a
    name of this project of it. ``clips`` are the options that say how the weights' training made
    its clips, where `ModelSpec.preprocessing` has them otherwise.
    """

    source: str
    names: re.Pattern[str]
    steps: tuple[tuple[str, str], ...]
    clips: str | None = None

    @property
    def note(self) -> str:
        """What to know of weights with these names."""
        other = f"; its training made clips as {self.clips} do" if self.clips else ""
        return f"named as {self.source} names them{other}"

    def translated(
        self, state: Mapping[str, Tensor], own: Collection[str]
    ) -> dict[str, Tensor] | None:
        """The tensors by the names ``own`` of a model; a name that is none of the naming's stays.

        None for a file that mixes names: some are the model's as they are, or two mean one tensor.
        """
        found: dict[str, Tensor] = {}
        for name, tensor in state.items():
            theirs = self.names.fullmatch(name) is not None
            new = self._own(name) if theirs else name
            if new in found or (not theirs and new in own):
                return None
            found[new] = tensor
        return found

    def _own(self, name: str) -> str:
        for pattern, replacement in self.steps:
            name = re.sub(pattern, replacement, name)
        return name


# Layers of a sequence by their places in it.
_C3D_IN_SEQUENCE = (
    *(("features.0", "conv1"), ("features.3", "conv2")),
    *(("features.6", "conv3a"), ("features.8", "conv3b")),
    *(("features.11", "conv4a"), ("features.13", "conv4b")),
    *(("features.16", "conv5a"), ("features.18", "conv5b")),
    *(("classifier.0", "fc6"), ("classifier.3", "fc7"), ("classifier.6", "fc8")),
)

NAMINGS = (
    # C3D: of Sports-1M, without a head; of UCF101.
    Naming(
        source="mmaction2",
        names=re.compile(r"(backbone\.)?(conv\d[ab]\.conv|fc[67])\.\w+|cls_head\.fc_cls\.\w+"),
        steps=(
            (r"^backbone\.", ""),
            (r"^conv([12])a\.", r"conv\1."),
            (r"\.conv\.", "."),
            (r"^cls_head\.fc_cls\.", "fc8."),
        ),
    ),
    # C3D of Sports-1M, without a head, which reads the colours as OpenCV gives them.
    Naming(
        source="pytorch-video-recognition",
        names=re.compile(r"(features|classifier)\.\d+\.\w+"),
        steps=tuple((rf"^{place}\.", f"{own}.") for place, own in _C3D_IN_SEQUENCE),
        clips="--colour-order bgr --mean 0.4,0.384,0.353 --std 0.00392,0.00392,0.00392",
    ),
    # S3D of Kinetics-400.
    Naming(
        source="kylemin/S3D",
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
)
