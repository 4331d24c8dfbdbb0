"""The register tiles of quantized_kgs_conv3d; the decisions of its schedule are kgs_conv3d's."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.target import Target

from rt3d_tvm.compile.choices.layer import Layer, Variant, worthwhile_heights
from rt3d_tvm.compile.choices.tiles import is_worthwhile
from topi_sparse.cpu.dot_unit import dot_unit
from topi_sparse.cpu.quantized_choice import accumulators


def quantized_tiles(layer: Layer, target: Target, heights: Sequence[int] | None) -> list[Variant]:
    """The register tiles worth measuring, the default first.

    All channel groups are one chunk: no sum of int32 fits the 8-bit result.
    """
    conv, unit = layer.conv, dot_unit(target)
    if unit is None:
        raise ValueError(f"target {target} has no 8-bit kernels")
    found = [layer.default]
    for g_m in heights or worthwhile_heights(layer):
        for width in range(1, min(conv.out[4], unit.registers) + 1):
            if is_worthwhile(accumulators(g_m, width, unit), width, conv.out[4], unit.registers):
                found.append(Variant(g_m=g_m, width=width, chunk=layer.default.chunk))
    return list(dict.fromkeys(found))
