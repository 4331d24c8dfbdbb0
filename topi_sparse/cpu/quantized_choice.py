"""Choosing the kernel group and the register tile of a quantised convolution.

The rules count issue slots as those of register_tile do; a slot is half a cycle of two pipes.
"""

from __future__ import annotations

import numpy as np

from topi_sparse.cpu.dot_unit import CHANNELS, DotUnit
from topi_sparse.cpu.register_tile import (
    GROUP_HEIGHTS,
    MIN_ACCUMULATORS,
    Tile,
    columns_by_row_block,
    of_row,
)
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import row_blocks
from topi_sparse.layout import ceil_div

# A matrix product takes two output columns, which are brought side by side first.
POSITIONS = 2
# Slots of a load that broadcasts 4 bytes: 16 filters by 14 columns, a load for each product, take
# 1.4 times as long per multiply-add as 32 filters do on an Emerald Rapids.
BROADCAST_SLOTS = 1.3
# Instructions of a step that count, test and find its inputs; a core issues two per slot.
LOOP_INSTRUCTIONS = 7
# Slots to scale, round and store a vector of results.
STORE_SLOTS = 10


def vectors_of(rows: int, unit: DotUnit) -> int:
    """Vectors of sums in a column of ``rows`` filters."""
    return ceil_div(rows * unit.parts, unit.lanes)


def accumulators(rows: int, width: int, unit: DotUnit) -> int:
    """Vectors of sums of ``rows`` filters on ``width`` output columns."""
    return vectors_of(rows, unit) * (
        POSITIONS * ceil_div(width, POSITIONS) if unit.is_matrix else width
    )


def slots(rows: int, width: int, unit: DotUnit) -> float:
    """Issue slots of one kept column of ``rows`` filters on ``width`` output columns."""
    vectors = vectors_of(rows, unit)
    if unit.is_matrix:
        # Of two kept columns: the products, then an arrangement for each two output columns.
        products = accumulators(rows, width, unit) + ceil_div(width, POSITIONS)
        loads = POSITIONS * (ceil_div(width, CHANNELS) + vectors)
        issued = (products + loads + LOOP_INSTRUCTIONS) / 2
        return max(products, loads, issued, MIN_ACCUMULATORS) / 2
    passes = ceil_div(min(rows * unit.parts, unit.lanes), unit.pipe_lanes)
    multiplied = vectors * width * passes * unit.products.issued
    inputs = ceil_div(width, CHANNELS) if unit.by_element else BROADCAST_SLOTS * width
    return max(multiplied, inputs + 2 * vectors * passes, MIN_ACCUMULATORS)


def tile_width(rows: int, out_width: int, unit: DotUnit) -> int:
    """Columns of a register tile: the fewest issue slots for a row of ``out_width`` columns."""
    vectors = vectors_of(rows, unit)
    free = unit.registers - vectors - unit.products.temporaries
    # By element there is a vector of inputs for four columns.
    most = free * CHANNELS // (CHANNELS * vectors + 1) if unit.by_element else free // vectors
    if unit.is_matrix:  # twice the weights, and inputs of two kept columns before and after
        most = (free - vectors - POSITIONS) // (POSITIONS * vectors) * POSITIONS
    most = min(max(most, 1), out_width)
    return min(
        range(1, most + 1),
        key=lambda width: (
            of_row(width, out_width, lambda columns: slots(rows, columns, unit)),
            out_width % width > 0,
            -width,
        ),
    )


def quantized_tile_of(group: KernelGroup, *, channels: int, out_width: int, unit: DotUnit) -> Tile:
    """The register tile that serves without tuning; all channel groups are one chunk."""
    return Tile(
        lanes=min(group.g_m * unit.parts, unit.lanes),
        width=tile_width(group.g_m, out_width, unit),
        chunk=ceil_div(channels, group.g_n),
        by_element=unit.by_element,
    )


def quantized_group(weight: np.ndarray, *, out_width: int, unit: DotUnit) -> KernelGroup:
    """The kernel group whose kernel would issue the least work for the zeros in ``weight``.

    weight: int8 (M, N, KD, KH, KW).
    """

    def work(g_m: int) -> float:
        group = KernelGroup(g_m=g_m, g_n=CHANNELS)
        blocks, last = row_blocks(weight.shape[0], g_m, unit.block)
        columns = columns_by_row_block(weight, group, blocks)
        width = tile_width(g_m, out_width, unit)

        def of(rows: int, kept: int, count: int) -> float:
            row = of_row(width, out_width, lambda columns: slots(rows, columns, unit))
            return row * kept + STORE_SLOTS * vectors_of(rows, unit) * out_width * count

        return of(g_m, int(columns[:-1].sum()), blocks - 1) + of(last, int(columns[-1]), 1)

    heights = sorted(GROUP_HEIGHTS, reverse=True)
    return KernelGroup(g_m=min(heights, key=work), g_n=CHANNELS)
