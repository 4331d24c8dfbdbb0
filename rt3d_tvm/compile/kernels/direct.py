"""kgs_conv3d on the input as it is, or on few channels padded to a kernel group."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from rt3d_tvm.compile.kernels.cost import issue_cost
from rt3d_tvm.compile.kernels.kernel import Candidate, Convolution, Kernel, kernel_of
from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.cpu.register_tile import (
    GROUP_CHANNELS,
    GROUP_HEIGHTS,
    VectorUnit,
    default_group,
    default_tile,
)
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import PackedLayout


def why_not_direct(conv: Convolution) -> str | None:
    """Why kgs_conv3d cannot be used, or None where it can."""
    if conv.depthwise:
        return "each filter sees one channel: a kernel group would be nearly all zeros"
    return None


def direct(conv: Convolution, unit: VectorUnit, group: KernelGroup | None) -> Kernel:
    """kgs_conv3d on the input as it is; few channels, as of a picture, are not padded."""
    n = conv.weight.shape[1]
    return _direct(conv, unit, group, c_block=unit.lanes if n >= GROUP_CHANNELS else n)


def why_not_padded(conv: Convolution) -> str | None:
    """Why the input's channels cannot be padded to a kernel group, or None where they can."""
    if conv.weight.shape[1] >= GROUP_CHANNELS:
        return f"its {conv.weight.shape[1]} channels fill a kernel group"
    return why_not_direct(conv)


def padded(conv: Convolution, unit: VectorUnit, group: KernelGroup | None) -> Kernel:
    """kgs_conv3d on few channels, padded with zeros so that they can share vectors with filters."""
    return _direct(conv, unit, group, c_block=GROUP_CHANNELS)


def _direct(
    conv: Convolution, unit: VectorUnit, group: KernelGroup | None, *, c_block: int
) -> Kernel:
    n = conv.weight.shape[1]
    x, y = PackedLayout(c_block=c_block), PackedLayout(c_block=unit.lanes)
    density = np.count_nonzero(conv.weight) / conv.weight.size
    of_phase = conv.out[1] // math.prod(conv.interleave)
    heights = [
        g_m for g_m in GROUP_HEIGHTS if math.prod(conv.interleave) == 1 or of_phase % g_m == 0
    ]
    if group is None or group.g_m not in heights:
        group = default_group(
            conv.weight,
            out_width=conv.out[4],
            c_block=y.c_block,
            unit=unit,
            g_n=min(GROUP_CHANNELS, c_block),
            heights=heights,
        )
    elif x.c_block % group.g_n:
        group = KernelGroup(g_m=group.g_m, g_n=n)
    tile = default_tile(
        channels=n,
        kernel=conv.weight.shape[2:],
        density=density,
        out_width=conv.out[4],
        stride_w=conv.stride[2],
        c_block=x.c_block,
        group=group,
        unit=unit,
    )
    weight = KGSWeight.from_dense(
        conv.weight,
        group=group,
        chunk=tile.chunk,
        row_multiple=y.c_block,
        channels=tile.channels,
    )
    products = KGSConv3d(
        **conv.geometry,
        group=group,
        kept=weight.kept,
        weights=weight.blocks.size,
        tile=tile,
        interleave=conv.interleave,
        x=x,
        y=y,
        residual=y if conv.residual else None,
        dtype=unit.dtype,
    )
    products = replace(products, x=products.needed_halo())
    moved = (weight.blocks.size, math.prod(conv.data), 2 * math.prod(conv.out))
    cost = issue_cost(products, *moved, unit=unit)
    return kernel_of(products, weight, conv.bias, cost=cost)


DIRECT = Candidate(why_not=why_not_direct, make=direct)
PADDED = Candidate(why_not=why_not_padded, make=padded)
