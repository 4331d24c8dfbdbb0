"""What a work-item of a GPU has in registers: its tile and the kernel group that fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm.target import Target

from topi_sparse.cpu.register_tile import (
    GROUP_CHANNELS,
    GROUP_HEIGHTS,
    SHARED_LOADS,
    Tile,
    columns_by_row_block,
)
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import row_blocks
from topi_sparse.layout import ceil_div

# Channels of a vector of activations: half4 and float4 are what a GPU loads at once.
VECTOR = 4
# Of the longest vector that OpenCL C has; in float32 it is one of AVX-512.
MOST_LANES = 16


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """A work-item, as a kernel that stores ``dtype`` and sums in ``accumulate`` sees it.

    accumulators: sums that it keeps in registers. rows: filters that share its activations.
    positions: it has no more, however few the filters of a row block.
    channels: that share a vector with filters where a row block has too few to fill it, see Tile.
    by_element: activations are loaded as vectors, once for all filters, and weights once for all
    neighbours, which compute at the same time; else work-items take turns, each with positions
    beside each other, and every number of its activations is broadcast from memory.
    """

    accumulators: int
    rows: int
    positions: int
    channels: int = 1
    by_element: bool = True
    dtype: str = "float32"
    accumulate: str = "float32"


# An Adreno 650 has 64 registers of 4 x 32 bit for each pair of waves (reg_size_vec4 in Mesa's table
# of devices). Up to 32 leave room for two pairs, so that one computes while the other's loads are
# under way. 64 sums are 16 of them; 16 filters x 4 positions take 4 more for the activations, 4 for
# the weights of a channel and some 4 for addresses; 8 filters x 8 positions 8, 2 and 4.
ADRENO = {"accumulators": 64, "rows": 16, "positions": 8}
# A CPU that runs OpenCL computes a work-item at a time, in vectors of 16. 24 of the 32 registers of
# AVX-512 hold sums: 32 filters x 12 positions, whose weights are two vectors that serve 12
# multiply-adds each. Fewer filters than a vector has lanes share it with channels: 8 x 4 channels
# are two vectors, and one load brings the activations for all filters.
CPU = {"accumulators": 384, "rows": 32, "positions": 24, "channels": 4, "by_element": False}

# Of what a convolution reads and stores: so few weights stay in float32 where the sums are in it.
# What rounding does to a weight is the same at every position, so that no mean over positions takes
# it out, and the first layers, whose planes are large and weights few, pass it on to all others:
# S3D's largest error in float16 goes from 2.6 to 1.4 % by it.
FEW_WEIGHTS = 1 / 50

# Results of a pool that a work-item has along D, and beside each other in a plane: most first. With
# 4 x 4 windows of 3 x 3 x 3 read 6 x 3 x 6 vectors, and have in registers 12 results that are not
# complete yet, 7 others and some 4 of addresses: 23 of the 32 that leave an Adreno two pairs.
POOL_PLANES, POOL_BESIDE = (4, 2, 1, 1, 1), (4, 4, 4, 2, 1)
# Vectors that it reads at most, each of them written out, where it has more than one result.
MOST_POOL_LOADS = 144

# Instructions that add up the channels of a vector of sums: six shuffles and three additions.
ADDING_UP = 9


def work_item(target: Target, dtype: str = "float32", accumulate: str = "float32") -> WorkItem:
    """The work-item of an OpenCL target; ValueError for another target or type."""
    if target.kind.name != "opencl":
        raise ValueError(f"target kind {target.kind.name!r} has no work-items; opencl has")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"there are kernels for float32 and float16, not for {dtype}")
    registers = ADRENO if "adreno" in target.keys else CPU
    # What is stored in float32 is stored so for its digits.
    return WorkItem(
        dtype=dtype, accumulate="float32" if dtype == "float32" else accumulate, **registers
    )


def item_tile(
    *, channels: int, positions: int, group: KernelGroup, item: WorkItem
) -> tuple[Tile, int]:
    """The register tile, and the filters that a work-item has of a row block.

    positions: those of a plane.
    """
    rows, shared = _rows(group.g_m, positions, item)
    width = min(item.accumulators // (rows * shared), item.positions, positions)
    tile = Tile(
        lanes=min(rows * shared, MOST_LANES),
        width=ceil_div(positions, ceil_div(positions, width)),
        chunk=ceil_div(channels, group.g_n),
        channels=shared,
        by_element=item.by_element,
    )
    return tile, rows


def _rows(g_m: int, positions: int, item: WorkItem) -> tuple[int, int]:
    """The filters per work-item, and the channels that share a vector with them.

    A layer of one position, as a fully connected one, has as many work-items per row block as there
    are vectors in it, and neighbours read neighbouring weights.
    """
    rows = min(g_m, item.rows if positions > 1 else GROUP_HEIGHTS[0])
    return rows, item.channels if rows < MOST_LANES else 1


def item_channels(channels: int, *, g_m: int, positions: int, item: WorkItem) -> int:
    """Channels a kernel group: a layer's few, unless they share vectors, which are whole."""
    shared = _rows(g_m, positions, item)[1]
    return GROUP_CHANNELS if shared > 1 else min(GROUP_CHANNELS, channels)


def item_weight_dtype(weights: int, moved: int, item: WorkItem) -> str:
    """The type to store ``weights`` in, where so many activations are ``moved`` as well."""
    return item.accumulate if weights <= FEW_WEIGHTS * moved else item.dtype


def item_pruning_group(item: WorkItem) -> KernelGroup:
    """What to prune in: as many filters as share the activations that a work-item loads."""
    return KernelGroup(g_m=item.rows, g_n=GROUP_CHANNELS)


def item_group(weight: np.ndarray, *, positions: int, item: WorkItem) -> KernelGroup:
    """The kernel group whose work-items would do the least for the zeros found in ``weight``.

    weight: (M, N, KD, KH, KW). Counted are multiply-adds and loads of vectors for each kept column
    and position, see WorkItem for what is loaded how often, and the adding up of channels.
    """
    m, n = weight.shape[:2]

    def group(g_m: int) -> KernelGroup:
        return KernelGroup(g_m=g_m, g_n=item_channels(n, g_m=g_m, positions=positions, item=item))

    def work(g_m: int) -> float:
        found = group(g_m)
        tile, rows = item_tile(channels=n, positions=positions, group=found, item=item)
        blocks, _ = row_blocks(m, g_m, g_m)
        columns, parts = columns_by_row_block(weight, found, blocks).sum(), g_m // rows
        if tile.by_element:
            return columns * parts * (found.g_n * rows / VECTOR + 1)
        steps, vectors = found.g_n // tile.channels, tile.vectors(rows)
        # As of a CPU's kernels: weights stream from L2, channels that share come from anywhere.
        loads = 2 * vectors + tile.width * (SHARED_LOADS if tile.channels > 1 else 1)
        column = steps * (vectors * tile.width + loads) / tile.width
        sums = ADDING_UP * vectors if tile.channels > 1 else 0
        return parts * (columns * column + blocks * sums)

    return group(min(sorted(GROUP_HEIGHTS, reverse=True), key=work))


def item_pool_tile(
    out: Sequence[int], *, window: Sequence[int], stride: Sequence[int], item: WorkItem
) -> tuple[int, int, int]:
    """Results a work-item along D, H and W of a pool whose result is (B, C, D, H, W).

    Of neighbours that compute at the same time each has a column, so that they read one run of
    memory; else a work-item has the run.
    """
    shapes = [(n, 1) if item.by_element else (1, n) for n in POOL_BESIDE]
    tiles = [
        tuple(
            ceil_div(extent, ceil_div(extent, n))
            for extent, n in zip(out[2:], (planes, *shape), strict=True)
        )
        for planes, shape in zip(POOL_PLANES, shapes, strict=True)
    ]

    def read(tile: tuple[int, int, int]) -> int:
        return math.prod(
            (n - 1) * min(step, k) + k for n, step, k in zip(tile, stride, window, strict=True)
        )

    return next((tile for tile in tiles if read(tile) <= MOST_POOL_LOADS), tiles[-1])


def item_copies(item: WorkItem) -> int:
    """Positions beside each other that a work-item copies, from one layout into another.

    Where work-items take turns so many as are the longest vector; to find out where one position
    is takes longer than to copy it.
    """
    return 1 if item.by_element else MOST_LANES // VECTOR
