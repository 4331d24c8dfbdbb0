"""The shape of a convolution layer, as text and as numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from rt3d_tvm.errors import InputError

_FORMAT = re.compile(r"(\d+)x(\d+)x(\d+)x(\d+)x(\d+)@(\d+)x(\d+)x(\d+)(?:/(\d+)x(\d+)x(\d+))?")


@dataclass(frozen=True, kw_only=True)
class ConvShape:
    """A 3D convolution of ``filters`` x ``channels`` x ``kernel`` on an input of size ``data``.

    kernel, data, stride and padding are (depth, height, width). Written
    ``256x128x3x3x3@8x28x28/1x2x2``; the stride is left out where it is 1.
    """

    filters: int
    channels: int
    kernel: tuple[int, int, int]
    data: tuple[int, int, int]
    stride: tuple[int, int, int] = (1, 1, 1)
    padding: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def parse(cls, text: str) -> ConvShape:
        """Read such a text; the padding is half the kernel. InputError for anything else."""
        match = _FORMAT.fullmatch(text)
        if match is None:
            raise InputError(
                f"layer {text!r} is not FILTERSxCHANNELSxKDxKHxKW@DxHxW, for example "
                "256x128x3x3x3@8x28x28, with a stride behind if there is one: .../1x2x2"
            )
        m, n, *rest = (int(number) for number in match.groups("1"))
        kernel, data, stride = (tuple(rest[i : i + 3]) for i in (0, 3, 6))
        if min(m, n, *rest) < 1:
            raise InputError(f"layer {text!r}: every size must be at least 1")
        padding = tuple(size // 2 for size in kernel)
        shape = cls(filters=m, channels=n, kernel=kernel, data=data, stride=stride, padding=padding)
        if min(shape.out) < 1:
            raise InputError(f"layer {text!r}: the kernel is larger than the padded input")
        return shape

    @property
    def out(self) -> tuple[int, int, int]:
        """Depth, height and width of the output."""
        sizes = zip(self.data, self.kernel, self.stride, self.padding, strict=True)
        depth, height, width = ((n + 2 * pad - k) // step + 1 for n, k, step, pad in sizes)
        return depth, height, width

    @property
    def macs(self) -> int:
        """Multiply-adds of the dense layer on one input."""
        return self.filters * self.channels * prod(self.kernel) * prod(self.out)

    def __str__(self) -> str:
        def by(sizes: tuple[int, ...]) -> str:
            return "x".join(map(str, sizes))

        stride = "" if self.stride == (1, 1, 1) else f"/{by(self.stride)}"
        return f"{self.filters}x{self.channels}x{by(self.kernel)}@{by(self.data)}{stride}"
