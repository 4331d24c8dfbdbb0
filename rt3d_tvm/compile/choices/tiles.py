"""The register tiles of kgs_conv3d, and the decisions of its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tvm.target import Target

from rt3d_tvm.compile.choices.layer import Layer, Variant, worthwhile_heights
from schedules.decisions import Decisions, defaults, listed, scheduled
from schedules.table import kernel_rule
from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.cpu.register_tile import lane_mappings, vector_unit
from topi_sparse.layout import ceil_div

# Fewer accumulators than this leave the multiply-add pipes idle, whatever is around them.
MIN_ACCUMULATORS = 8
# Chunks, in parts of the default one.
CHUNKS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3)


def tiles(layer: Layer, target: Target, heights: Sequence[int] | None) -> list[Variant]:
    """The register tiles worth measuring, the default first."""
    conv, default = layer.conv, layer.default
    unit = replace(vector_unit(target, conv.dtype), lanes=conv.y.c_block)
    block = max(conv.x.c_block // conv.group.g_n, 1)
    whole = ceil_div(ceil_div(conv.data[1], conv.group.g_n), block) * block
    # Sums in float16 are kept short for their digits, not for speed.
    factors = [factor for factor in CHUNKS if factor <= 1 or conv.dtype == "float32"]
    chunks = sorted(
        {min(max(round(default.chunk * f / block), 1) * block, whole) for f in factors}
        | {default.chunk}
    )
    found = [default]
    for g_m in heights or worthwhile_heights(layer):
        for lanes, channels in lane_mappings(replace(conv.group, g_m=g_m), unit):
            vectors = g_m * channels // lanes
            for width in range(1, min(conv.out[4], unit.registers) + 1):
                if is_worthwhile(vectors * width, width, conv.out[4], unit.registers):
                    tile = Variant(g_m=g_m, width=width, chunk=default.chunk, channels=channels)
                    found += [replace(tile, chunk=chunk) for chunk in chunks]
    return list(dict.fromkeys(found))


def tile_decisions(conv: KGSConv3d, target: Target) -> tuple[Decisions, tuple]:
    """The default decisions of the kernel's schedule, and for each all there are."""
    sch = scheduled(conv.prim_func(), kernel_rule(conv.name).schedule, target)
    return defaults(sch), listed(sch)


def is_worthwhile(accumulators: int, width: int, out_width: int, registers: int) -> bool:
    """Whether a tile of so many accumulators keeps the pipes busy and stays in registers."""
    if accumulators >= registers or (accumulators < MIN_ACCUMULATORS and width < out_width):
        return False
    # Of widths that cut a row into as many strips, those that cut it evenly.
    strips = ceil_div(out_width, width)
    return width == ceil_div(out_width, strips) or out_width % width == 0
