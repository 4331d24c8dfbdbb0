"""quantized_kgs_conv3d: kgs_conv3d on 8-bit activations and weights, with sums of int32.

A kept column is one dot product for each filter: the four channels of a kernel group are the four
bytes of a lane. All channel groups are one chunk, since no sum of int32 fits the 8-bit result. What
becomes of a sum is in quantized_sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import tvm

from topi_sparse.cpu.dot_unit import INSTRUCTIONS
from topi_sparse.cpu.kgs_conv3d import KGSConv3d, packed_conv3d, parameters
from topi_sparse.cpu.quantized_sums import QuantizedAdd, QuantizedSums
from topi_sparse.cpu.quantized_tile import quantized_tile
from topi_sparse.prim_func import typed

# The attribute of the PrimFunc under which its own definition stands, as JSON.
QUANTIZED_ATTRIBUTE = "quantized_kgs_conv3d"
# The parameters that are for the products.
_OF_WEIGHTS = ("x", "blocks", "offsets", "pointers")


@dataclass(frozen=True, kw_only=True)
class QuantizedKGSConv3d(QuantizedSums, KGSConv3d):
    """All that defines one quantized_kgs_conv3d; ``x.fill`` and ``y.fill`` are the zero points.

    dtype: of the input, uint8 or int8.
    """

    name: ClassVar[str] = QUANTIZED_ATTRIBUTE
    parts: ClassVar[Mapping[str, Callable]] = {**KGSConv3d.parts, "added": QuantizedAdd}

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
    def packing(self) -> dict[str, int | None]:
        """As in KGSConv3d."""
        return INSTRUCTIONS[self.instruction].packing

    def lanes_of(self, g_m: int, channels: int) -> int:
        """As in KGSConv3d; a filter has as many sums as the instruction makes."""
        return min(g_m * INSTRUCTIONS[self.instruction].parts, self.y.c_block)

    @property
    def argument_types(self) -> dict[str, str]:
        """The types of the arguments that are not ``dtype``, by their names."""
        return {**super().argument_types, **self.types_of_sums, "blocks": "int8"}

    def prim_func(self) -> tvm.tirx.PrimFunc:
        """The kernel that this defines, not scheduled yet."""
        return quantized_kgs_conv3d(self)


def quantized_parameters(conv: QuantizedKGSConv3d) -> dict[str, tuple]:
    """The shape and type of the kernel's arguments, in order."""
    weights = {name: shape for name, shape in parameters(conv).items() if name in _OF_WEIGHTS}
    rest = {**conv.shapes_of_sums, "y": conv.y.shape(conv.out)}
    return {**weights, **typed(rest, conv.dtype, **conv.argument_types)}


def quantized_kgs_conv3d(conv: QuantizedKGSConv3d) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, blocks, offsets, pointers, bias, scale, [planes,] [residual,] y).

    bias and planes are those of ``conv.bias_and_planes``, scale holds a factor for each filter,
    padded with zeros; the others are as in kgs_conv3d.
    """
    return packed_conv3d(conv, quantized_parameters(conv), quantized_tile)
