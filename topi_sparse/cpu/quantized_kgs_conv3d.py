"""quantized_kgs_conv3d: kgs_conv3d on 8-bit activations and weights, with sums of int32.

A kept column is one dot product for each filter: the four channels of a kernel group are the four
bytes of a lane. All channel groups are one chunk, since no sum of int32 fits the 8-bit result.

The result is what QuantizeLinear, the convolution and DequantizeLinear of ONNX come to::

    sum  = bias[m] + sum of (x - zero of x) * w[m]         in int32, exact
    y    = round(sum * scale[m])  to the nearest even, kept within [low, high]

With a residual the convolution has a scale of its own, in which it is rounded first, as the graph
says; the sum of both is brought to the scale of y. Where y is float32, it is sum * scale[m].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm

from topi_sparse.cpu.dot_unit import CHANNELS, INSTRUCTIONS
from topi_sparse.cpu.kgs_conv3d import KGSConv3d, packed_conv3d, parameters
from topi_sparse.cpu.quantized_tile import quantized_tile

# The attribute of the PrimFunc under which its own definition stands, as JSON.
QUANTIZED_ATTRIBUTE = "quantized_kgs_conv3d"
# The largest product of an activation and a weight: so many of them are added up in int32.
MAX_TERMS = (2**31 - 1) // (255 * 127) - 1


@dataclass(frozen=True, kw_only=True)
class QuantizedAdd:
    """A residual, and in what scale the convolution is rounded before it is added.

    The rounded convolution is kept within [low, high], counted from its zero point; one of its
    steps is ``step``. A step of the residual is ``residual_step``; ``per_step`` is the reciprocal
    of a step of the result.
    """

    low: int
    high: int
    step: float
    residual_step: float
    residual_zero: int
    per_step: float


@dataclass(frozen=True, kw_only=True)
class QuantizedKGSConv3d(KGSConv3d):
    """All that defines one quantized_kgs_conv3d; ``x.fill`` and ``y.fill`` are the zero points.

    dtype        of the input: uint8 or int8
    result       of y: the same, or float32
    instruction  of dot_unit.INSTRUCTIONS
    low, high    what the result is kept within, counted from its zero point
    added        what is known of the residual, where there is one
    """

    name: ClassVar[str] = QUANTIZED_ATTRIBUTE
    parts: ClassVar[Mapping[str, Callable]] = {**KGSConv3d.parts, "added": QuantizedAdd}

    instruction: str
    result: str
    low: int = 0
    high: int = 0
    added: QuantizedAdd | None = None

    @property
    def summed_dtype(self) -> str:
        """The type of the sums."""
        return "int32"

    @property
    def is_real(self) -> bool:
        """Whether the result is float32."""
        return self.result == "float32"

    @property
    def corrects_planes(self) -> bool:
        """Whether what the zero point adds to a sum depends on how many planes there are."""
        kd_begin, kd_end = self.valid_locations(0)
        all_there = (kd_begin, kd_end) == (0, self.kernel[0])
        return bool(self.x.fill) and not (isinstance(kd_end, int) and all_there)

    @property
    def row_blocks_last(self) -> bool:
        """Whether the inputs of a tile should stay in L1 for all row blocks."""
        return False

    @property
    def other_types(self) -> dict[str, str]:
        """As in KGSConv3d; the instruction decides which tile is fast."""
        return {"result": self.result, "instruction": self.instruction}

    @property
    def constants(self) -> tuple[str, ...]:
        """As in KGSConv3d."""
        return (*super().constants, "scale", *(("planes",) if self.corrects_planes else ()))

    @property
    def weight_channels(self) -> int:
        """As in KGSConv3d: the four of a lane."""
        return CHANNELS

    def lanes_of(self, g_m: int, channels: int) -> int:
        """As in KGSConv3d; a filter has as many sums as the instruction makes."""
        return min(g_m * INSTRUCTIONS[self.instruction].parts, self.y.c_block)

    @property
    def argument_types(self) -> dict[str, str]:
        """The types of the arguments that are not ``dtype``, by their names."""
        return {
            **super().argument_types,
            "blocks": "int8",
            "bias": "int32",
            "scale": "float32",
            "planes": "int32",
            "y": self.result,
        }

    def prim_func(self) -> tvm.tirx.PrimFunc:
        """The kernel that this defines, not scheduled yet."""
        return quantized_kgs_conv3d(self)

    def bias_and_planes(
        self, weight: np.ndarray, bias: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The bias less what the zero point of x adds, and for each kd what it adds before it.

        weight: int8 (M, N, KD, KH, KW); bias: int32 (M,), counted in products. The second is None
        where it is the same at all planes, and is part of the first.
        """
        stored = self.stored_filters
        before = np.zeros((self.kernel[0] + 1, stored), "int64")
        by_plane = weight.astype("int64").sum(axis=(1, 3, 4))
        before[1:, : self.filters] = np.cumsum(by_plane, axis=1).T * self.x.fill
        total = np.zeros(stored, "int64")
        if bias is not None:
            total[: self.filters] = bias
        if self.corrects_planes:
            return total.astype("int32"), before.ravel().astype("int32")
        return (total - before[-1]).astype("int32"), None


def quantized_parameters(conv: QuantizedKGSConv3d) -> dict[str, tuple]:
    """The shape and type of the kernel's arguments, in order."""
    found = parameters(conv)
    filters, types = conv.stored_filters, conv.argument_types
    last = {name: found.pop(name) for name in ("residual", "y") if name in found}
    found["scale"] = ((filters,), types["scale"])
    if conv.corrects_planes:
        found["planes"] = (((conv.kernel[0] + 1) * filters,), types["planes"])
    return {**found, **last}


def quantized_kgs_conv3d(conv: QuantizedKGSConv3d) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, blocks, offsets, pointers, bias, scale, [planes,] [residual,] y).

    bias and planes are those of ``conv.bias_and_planes``, scale holds a factor for each filter,
    padded with zeros; the others are as in kgs_conv3d.
    """
    return packed_conv3d(conv, quantized_parameters(conv), quantized_tile)
