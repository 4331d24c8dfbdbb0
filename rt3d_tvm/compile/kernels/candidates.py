"""The kernels that can compute a convolution, and the choice between them by what they cost.

A candidate makes a Kernel of a Convolution or says why it cannot; the cheapest one is taken.
Another algorithm is another row of CANDIDATES.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.packed_call import emit_call
from topi_sparse.cpu.depthwise_conv3d import (
    DepthwiseConv3d,
    default_width,
    depthwise_conv3d,
    packed_windows,
)
from topi_sparse.cpu.kgs_conv3d import KGSConv3d, kgs_conv3d
from topi_sparse.cpu.register_tile import (
    GROUP_CHANNELS,
    VectorUnit,
    default_group,
    default_tile,
    issue_slots,
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
from topi_sparse.opencl.work_item import WorkItem

# Multiply-adds that all cores do while one byte comes from or goes to memory: 100 G/s and some
# 20 GB/s on two cores of a Zen 3; a phone's big cores have about the same ratio.
MULTIPLY_ADDS_A_BYTE = 5
# Winograd's transforms cost digits: they have to save at least a fifth.
WINOGRAD_MARGIN = 1.25
# Its weights are four times as many, and a byte more of them has to save so many multiply-adds: on
# the small planes of deep layers, where most of the weights are, it saves 16 to 33 (4 x 14 x 14
# positions of C3D, R(2+1)D and S3D, 28 x 28 of VGG), elsewhere more than 110.
MULTIPLY_ADDS_A_WEIGHT_BYTE = 48


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution:
    """What is to be computed: shapes as in NCDHW, the weight (M, N, KD, KH, KW) with its zeros.

    ``depthwise``: each filter has a channel to itself, N is 1. Other groups are written out, with
    zeros between them. ``ceiling`` is the largest value that the ReLU lets through, or None.
    """

    data: tuple[int, ...]
    out: tuple[int, ...]
    weight: np.ndarray
    bias: np.ndarray | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    residual: bool
    relu: bool
    ceiling: float | None = None
    depthwise: bool = False

    @property
    def geometry(self) -> dict:
        """The fields of a PackedConv3d that are the same whichever kernel it is."""
        return {
            "data": self.data,
            "filters": self.out[1],
            "kernel": self.weight.shape[2:],
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "relu": self.relu,
            "ceiling": self.ceiling,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """One way to compute a convolution.

    products     the kernel that does the multiply-adds; ``pack`` makes its stored weights, once
    x, y         how the input and the result (and a residual) are packed
    issued_macs  multiply-adds on stored weights
    cost         in multiply-adds: the time for those and for the memory traffic
    emit         emits the calls for a packed input and a packed residual or None
    """

    name: str
    products: KGSConv3d | DepthwiseConv3d
    pack: Callable[[], np.ndarray]
    x: PackedLayout
    y: PackedLayout
    issued_macs: int
    cost: float
    emit: Callable[[relax.BlockBuilder, relax.Expr, relax.Expr | None], relax.Var]


# Pairs: why a kernel cannot compute a convolution, or None; what makes it, for a unit and a group.
Candidates = tuple[tuple[Callable[[Convolution], str | None], Callable[..., Kernel]], ...]


def why_none(conv: Convolution, candidates: Candidates) -> str | None:
    """Why none of the candidates can compute it, or None where one can."""
    reasons = [why_not(conv) for why_not, _ in candidates]
    return None if None in reasons else "; ".join(reasons)


def cheapest(
    conv: Convolution,
    unit: VectorUnit | WorkItem,
    group: KernelGroup | None,
    *,
    winograd: bool,
    candidates: Candidates | None = None,
) -> Kernel:
    """The candidate (by default of CANDIDATES, those of a CPU) of the lowest cost.

    Without ``winograd`` of those that are direct.
    """
    if isinstance(unit, VectorUnit):  # a work-item's kernel decides for each convolution
        conv = replace(conv, weight=conv.weight.astype(unit.dtype))
    kernels = [
        make(conv, unit, group)
        for why_not, make in candidates or CANDIDATES
        if why_not(conv) is None and (winograd or make is not by_winograd)
    ]
    return min(kernels, key=lambda kernel: kernel.cost)


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
    if group is None:
        group = default_group(
            conv.weight,
            out_width=conv.out[4],
            c_block=y.c_block,
            unit=unit,
            g_n=min(GROUP_CHANNELS, c_block),
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
        x=x,
        y=y,
        residual=y if conv.residual else None,
        dtype=unit.dtype,
    )
    products = replace(products, x=products.needed_halo())
    moved = (weight.blocks.size, math.prod(conv.data), 2 * math.prod(conv.out))
    cost = _cost(products, *moved, unit=unit)
    return kernel_of(products, kgs_conv3d, weight, conv.bias, cost=cost)


def kernel_of(
    products: KGSConv3d,
    make: Callable[[KGSConv3d], tvm.tirx.PrimFunc],
    weight: KGSWeight,
    bias: np.ndarray | None,
    *,
    cost: float,
) -> Kernel:
    """The Kernel that is one call of ``make(products)``, on the input as it is."""

    def emit(builder: relax.BlockBuilder, x: relax.Expr, residual: relax.Expr | None) -> relax.Var:
        func = make(products)
        return _emit_products(builder, func, products, weight, weight.blocks, bias, x, residual)

    return Kernel(
        name=make.__name__,
        products=products,
        pack=lambda: weight.blocks,
        x=products.x,
        y=products.y,
        issued_macs=issued_macs(products),
        cost=cost,
        emit=emit,
    )


def why_not_winograd(conv: Convolution) -> str | None:
    """Why Winograd's transforms cannot be used, or None where they can."""
    if conv.depthwise:
        return "each filter sees one channel: there are no products of matrices between transforms"
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
    m, n = conv.weight.shape[:2]
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
    tile = default_tile(
        channels=n,
        kernel=kept.shape[2:],
        density=np.count_nonzero(kept) / kept.size,
        out_width=positions,
        stride_w=1,
        c_block=y.c_block,
        group=group,
        unit=unit,
        weight_sets=POINTS,
    )
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
        func = kgs_conv3d(products)
        u = _emit_products(builder, func, products, point, pack(), None, v, None)
        args = [u, _padded_bias(conv.bias, m, ceil_div(m, y.c_block) * y.c_block)]
        if residual is not None:
            args.append(residual)
        return emit_call(builder, "winograd_output", winograd_output(definition), args)

    # What is between the transforms is written, which reads it first, and read again.
    between = math.prod(definition.transformed) + math.prod(products.out)
    # What is kept at a location without the transforms, at worst.
    direct_weights = point.blocks.size * KERNEL**2
    more_bytes = conv.weight.itemsize * (POINTS * point.blocks.size - direct_weights)
    return Kernel(
        name="winograd_conv3d",
        products=products,
        pack=pack,
        x=definition.x,
        y=y,
        issued_macs=issued_macs(products),
        cost=MULTIPLY_ADDS_A_WEIGHT_BYTE * more_bytes
        + WINOGRAD_MARGIN
        * _cost(
            products,
            POINTS * point.blocks.size,
            3 * between,
            math.prod(conv.data),
            2 * math.prod(conv.out),
            unit=unit,
        ),
        emit=emit,
    )


def why_not_depthwise(conv: Convolution) -> str | None:
    """Why depthwise_conv3d cannot be used, or None where it can."""
    return None if conv.depthwise else "its filters see several channels"


def depthwise(conv: Convolution, unit: VectorUnit, _group: KernelGroup | None) -> Kernel:
    """depthwise_conv3d: no kernel group, since no input is shared."""
    layout = PackedLayout(c_block=unit.lanes)
    windows = packed_windows(conv.weight, layout.c_block)
    definition = DepthwiseConv3d(
        **conv.geometry,
        width=default_width(out_width=conv.out[4], kernel_w=conv.weight.shape[4], unit=unit),
        x=layout,
        y=layout,
        residual=layout if conv.residual else None,
        dtype=unit.dtype,
    )
    definition = replace(definition, x=definition.needed_halo())

    def emit(builder: relax.BlockBuilder, x: relax.Expr, residual: relax.Expr | None) -> relax.Var:
        channels, stored = definition.filters, definition.stored_filters
        bias = _padded_bias(conv.bias, channels, stored, definition.dtype)
        args = [x, relax.const(windows), bias]
        if residual is not None:
            args.append(residual)
        return emit_call(builder, "depthwise_conv3d", depthwise_conv3d(definition), args)

    issued = windows.size * conv.out[0] * math.prod(conv.out[2:])
    moved = windows.itemsize * (math.prod(conv.data) + 2 * math.prod(conv.out))
    return Kernel(
        name="depthwise_conv3d",
        products=definition,
        pack=lambda: windows,
        x=definition.x,
        y=layout,
        issued_macs=issued,
        cost=issued + MULTIPLY_ADDS_A_BYTE * moved,
        emit=emit,
    )


# The kernels of a CPU.
CANDIDATES: Candidates = (
    (why_not_direct, direct),
    (why_not_padded, padded),
    (why_not_winograd, by_winograd),
    (why_not_depthwise, depthwise),
)


def issued_macs(products: KGSConv3d) -> int:
    """Multiply-adds on stored weights."""
    batch, _, *positions = products.out
    return products.weights * batch * math.prod(positions)


def _cost(products: KGSConv3d, *moved: int, unit: VectorUnit) -> float:
    """Multiply-adds that there is time for while the kernel runs.

    Those that it issues, with the issue slots that its tile leaves idle, and those for the elements
    ``moved`` to and from memory.
    """
    tile = products.tile
    vectors = tile.vectors(products.group.g_m)
    width = min(tile.width, products.out[4])
    slots = issue_slots(vectors, tile.lanes, width, unit, tile.channels)
    busy = vectors * width * ceil_div(tile.lanes, unit.pipe_lanes) / slots
    traffic = np.dtype(products.dtype).itemsize * sum(moved)
    return issued_macs(products) / busy + MULTIPLY_ADDS_A_BYTE * traffic


def _padded_bias(
    bias: np.ndarray | None, filters: int, stored: int, dtype: str = "float32"
) -> relax.Expr:
    padded = np.zeros(stored, dtype)
    if bias is not None:
        padded[:filters] = bias
    return relax.const(padded)


def _emit_products(
    builder: relax.BlockBuilder,
    func: tvm.tirx.PrimFunc,
    products: KGSConv3d,
    weight: KGSWeight,
    blocks: np.ndarray,
    bias: np.ndarray | None,
    x: relax.Expr,
    residual: relax.Expr | None,
) -> relax.Var:
    """Emit the call of ``func``, a kernel that walks the kept columns of ``weight``."""
    args = [
        x,
        relax.const(blocks),
        relax.const(products.offsets(weight.columns)),
        relax.const(weight.pointers),
        _padded_bias(
            bias,
            products.filters,
            products.stored_filters,
            products.argument_types.get("bias", products.dtype),
        ),
    ]
    if residual is not None:
        args.append(residual)
    return emit_call(builder, str(func.attrs["global_symbol"]), func, args)
