"""Winograd's transforms around kgs_conv3d: fewer multiply-adds for dense 3x3 windows."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
from tvm import relax

from rt3d_tvm.compile.ir.packed_call import emit_call
from rt3d_tvm.compile.kernels.cost import issue_cost
from rt3d_tvm.compile.kernels.kernel import (
    Candidate,
    Convolution,
    Kernel,
    emit_products,
    issued_macs,
    padded_bias,
)
from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.cpu.register_tile import (
    GROUP_CHANNELS,
    Tile,
    VectorUnit,
    default_group,
    default_tile,
)
from topi_sparse.cpu.winograd import (
    KERNEL,
    POINTS,
    WinogradConv3d,
    transformed_weights,
    winograd_input,
    winograd_output,
)
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import PackedLayout, ceil_div

# Winograd's transforms cost digits: they have to save at least a fifth.
WINOGRAD_MARGIN = 1.25
# Its weights are four times as many, and a byte more of them has to save so many multiply-adds: on
# the small planes of deep layers, where most of the weights are, it saves 16 to 33 (4 x 14 x 14
# positions of C3D, R(2+1)D and S3D, 28 x 28 of VGG), elsewhere more than 110.
MULTIPLY_ADDS_A_WEIGHT_BYTE = 48


def why_not_winograd(conv: Convolution) -> str | None:
    """Why Winograd's transforms cannot be used, or None where they can."""
    if conv.depthwise:
        return "each filter sees one channel: there are no products of matrices between transforms"
    if math.prod(conv.interleave) > 1:
        return "its results interleave, which the transforms do not know"
    if conv.weight.dtype != "float32":
        return f"its {conv.weight.dtype} has no digits to spare for the transforms"
    if conv.weight.shape[3:] != (KERNEL, KERNEL):
        return f"its windows are {conv.weight.shape[3:]} over H and W, not (3, 3)"
    if conv.stride[1:] != (1, 1) or conv.dilation[1:] != (1, 1):
        return f"its stride is {conv.stride} and its dilation {conv.dilation}, not 1 over H and W"
    if conv.weight.shape[1] < GROUP_CHANNELS:
        return f"it has {conv.weight.shape[1]} input channels, fewer than {GROUP_CHANNELS}"
    return None


def by_winograd(conv: Convolution, unit: VectorUnit, group: KernelGroup | None) -> Kernel:
    """Transforms around a kgs_conv3d for each of 6 x 6 points; see topi_sparse.cpu.winograd."""
    y = PackedLayout(c_block=unit.lanes)
    definition = WinogradConv3d(
        **conv.geometry,
        x=y,
        y=y,
        residual=y if conv.residual else None,
    )
    definition = replace(definition, x=definition.needed_halo())
    positions = definition.transformed[4]
    # A point needs all of a kernel's locations: what is kept of it is kept whole.
    kept = (conv.weight != 0).any(axis=(3, 4), keepdims=True).astype(conv.weight.dtype)
    if group is None:
        group = default_group(kept, out_width=positions, c_block=y.c_block, unit=unit)
    tile = _tile(kept, positions, c_block=y.c_block, group=group, unit=unit)
    packing = {
        "group": group,
        "chunk": tile.chunk,
        "row_multiple": y.c_block,
        "channels": tile.channels,
    }
    point = KGSWeight.from_dense(kept, **packing)
    products = definition.products(group=group, tile=tile, weight=point)

    @functools.cache  # the transforms take time, and the kernel may not be chosen
    def pack() -> np.ndarray:
        points = transformed_weights(conv.weight, **packing)
        return np.concatenate([point.blocks for point in points])

    def emit(builder: relax.BlockBuilder, x: relax.Expr, residual: relax.Expr | None) -> relax.Var:
        v = emit_call(builder, "winograd_input", winograd_input(definition), [x])
        u = emit_products(builder, products, point, pack(), None, v, None)
        m = conv.weight.shape[0]
        args = [u, padded_bias(conv.bias, m, ceil_div(m, y.c_block) * y.c_block)]
        if residual is not None:
            args.append(residual)
        return emit_call(builder, "winograd_output", winograd_output(definition), args)

    return Kernel(
        name="winograd_conv3d",
        products=products,
        pack=pack,
        x=definition.x,
        y=y,
        issued_macs=issued_macs(products),
        cost=_cost(conv, definition, products, point, unit),
        emit=emit,
    )


def _tile(
    kept: np.ndarray, positions: int, *, c_block: int, group: KernelGroup, unit: VectorUnit
) -> Tile:
    """The register tile of the products, which read a weight of their own at each point."""
    return default_tile(
        channels=kept.shape[1],
        kernel=kept.shape[2:],
        density=np.count_nonzero(kept) / kept.size,
        out_width=positions,
        stride_w=1,
        c_block=c_block,
        group=group,
        unit=unit,
        weight_sets=POINTS,
    )


def _cost(
    conv: Convolution,
    definition: WinogradConv3d,
    products: KGSConv3d,
    point: KGSWeight,
    unit: VectorUnit,
) -> float:
    """In multiply-adds: those of all points, the transforms' traffic and the larger weights."""
    # What is between the transforms is written, which reads it first, and read again.
    between = math.prod(definition.transformed) + math.prod(products.out)
    # What is kept at a location without the transforms, at worst.
    direct_weights = point.blocks.size * KERNEL**2
    more_bytes = conv.weight.itemsize * (POINTS * point.blocks.size - direct_weights)
    moved = (POINTS * point.blocks.size, 3 * between, math.prod(conv.data), 2 * math.prod(conv.out))
    return MULTIPLY_ADDS_A_WEIGHT_BYTE * more_bytes + WINOGRAD_MARGIN * issue_cost(
        products, *moved, unit=unit
    )


WINOGRAD = Candidate(why_not=why_not_winograd, make=by_winograd, direct=False)
