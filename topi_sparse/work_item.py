"""What a work-item of a GPU has in registers: its tile and the kernel group that fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.target import Target

from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import row_blocks
from topi_sparse.layout import ceil_div
from topi_sparse.register_tile import GROUP_CHANNELS, GROUP_HEIGHTS, Tile, columns_by_row_block

# Channels of a vector of activations: half4 and float4 are what a GPU loads at once.
VECTOR = 4


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """A work-item, as a kernel that stores ``dtype`` and sums in ``accumulate`` sees it.

    accumulators: results whose sums it keeps in registers. rows: filters that share its
    activations. channels: that share a vector with filters, see Tile.
    """

    accumulators: int
    rows: int
    channels: int = 1
    dtype: str = "float32"
    accumulate: str = "float32"


# An Adreno 650 has 64 registers of 4 x 32 bit for each pair of waves (reg_size_vec4 in Mesa's table
# of devices) and hides the latency of its loads behind other waves. 32 sums (8 registers), 4
# activations and a channel of 8 weights (6), and some 4 of addresses leave room for 3 pairs.
ADRENO = {"accumulators": 32, "rows": 8}
# A CPU that runs OpenCL computes a work-item at a time, in vectors. 4 filters x 4 channels are one
# of AVX-512: a row block of 8 fills it too, and one load brings the activations for all filters.
# 96 results are 24 of its 32 registers.
CPU = {"accumulators": 96, "rows": 16, "channels": 4}


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

    positions: those of a plane. A layer that has one, as a fully connected one, has as many
    work-items a row block as there are vectors in it, and neighbours read neighbouring weights.
    """
    rows = min(group.g_m, item.rows if positions > 1 else GROUP_HEIGHTS[0])
    width = min(item.accumulators // rows, positions)
    tile = Tile(
        lanes=rows if item.channels == 1 else VECTOR * item.channels,
        width=ceil_div(positions, ceil_div(positions, width)),
        chunk=ceil_div(channels, group.g_n),
        channels=item.channels,
    )
    return tile, rows


def item_channels(channels: int, item: WorkItem) -> int:
    """Channels a kernel group: a layer's few, unless they share vectors, which are whole."""
    return GROUP_CHANNELS if item.channels > 1 else min(GROUP_CHANNELS, channels)


def item_group(weight: np.ndarray, *, positions: int, item: WorkItem) -> KernelGroup:
    """The kernel group whose work-items would do the least for the zeros found in ``weight``.

    weight: (M, N, KD, KH, KW). For each kept column a work-item does rows x width multiply-adds a
    channel and loads width activations and as many vectors of weights as it has rows for, which
    are as long as those of the sums.
    """
    g_n = item_channels(weight.shape[1], item)

    def work(g_m: int) -> float:
        group = KernelGroup(g_m=g_m, g_n=g_n)
        tile, rows = item_tile(
            channels=weight.shape[1], positions=positions, group=group, item=item
        )
        blocks, _ = row_blocks(weight.shape[0], g_m, g_m)
        columns = columns_by_row_block(weight, group, blocks).sum() * (g_m // rows)
        lanes = VECTOR * item.channels
        loads = tile.width + g_n * rows / lanes
        return columns * (g_n * rows * tile.width + lanes * loads) / tile.width

    return KernelGroup(g_m=min(sorted(GROUP_HEIGHTS, reverse=True), key=work), g_n=g_n)
