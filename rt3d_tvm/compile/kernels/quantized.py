"""quantized_kgs_conv3d: the kernel of a convolution between 8-bit tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax

from rt3d_tvm.compile.ir.packed_call import emit_call
from rt3d_tvm.compile.kernels.kernel import Kernel, issued_macs
from topi_sparse.cpu.dot_unit import CHANNELS, DotUnit
from topi_sparse.cpu.quantized_choice import quantized_group, quantized_tile_of
from topi_sparse.cpu.quantized_kgs_conv3d import MAX_TERMS, QuantizedAdd, QuantizedKGSConv3d
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import PackedLayout


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What an 8-bit tensor stands for: (stored - zero) * scale."""

    scale: float
    zero: int


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedConvolution:
    """What is to be computed: shapes as in NCDHW, the weight int8 (M, N, KD, KH, KW).

    scales    of the weight, one for each filter
    bias      real numbers, one for each filter, or None
    x, y      of the input and of the result; without y the result is float32
    between   of the convolution, where a residual is added to it, whose own is ``residual``
    relu, ceiling  of the last sum; ``inner_relu``, ``inner_ceiling`` of what a residual is added to
    """

    data: tuple[int, ...]
    out: tuple[int, ...]
    weight: np.ndarray
    scales: np.ndarray
    bias: np.ndarray | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    x: Quantization
    y: Quantization | None
    between: Quantization | None = None
    residual: Quantization | None = None
    relu: bool = False
    ceiling: float | None = None
    inner_relu: bool = False
    inner_ceiling: float | None = None


def why_not_quantized(conv: QuantizedConvolution) -> str | None:
    """Why quantized_kgs_conv3d cannot be used, or None where it can."""
    terms = math.prod(conv.weight.shape[1:])
    if terms > MAX_TERMS:
        return f"its sums have {terms} terms; up to {MAX_TERMS} are sure to fit int32"
    return None


def quantized(conv: QuantizedConvolution, unit: DotUnit, group: KernelGroup | None) -> Kernel:
    """The kernel, in the group that fits its zeros where none is given."""
    n = conv.weight.shape[1]
    if group is None or group.g_n != CHANNELS:
        height = None if group is None else group.g_m
        group = quantized_group(conv.weight, out_width=conv.out[4], unit=unit)
        group = group if height is None else KernelGroup(g_m=height, g_n=CHANNELS)
    x = PackedLayout(c_block=unit.block if n >= CHANNELS else CHANNELS, fill=conv.x.zero)
    y = PackedLayout(c_block=unit.block, fill=0 if conv.y is None else conv.y.zero)
    tile = quantized_tile_of(group, channels=n, out_width=conv.out[4], unit=unit)
    weight = KGSWeight.from_dense(
        conv.weight, group=group, chunk=tile.chunk, row_multiple=unit.block, channels=CHANNELS
    )
    bounds = {} if conv.y is None else _bounds(conv.y, conv.relu, conv.ceiling, unit)
    products = QuantizedKGSConv3d(
        data=conv.data,
        filters=conv.out[1],
        kernel=conv.weight.shape[2:],
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        relu=conv.relu,
        ceiling=conv.ceiling,
        group=group,
        kept=weight.kept,
        weights=weight.blocks.size,
        tile=tile,
        x=x,
        y=y,
        residual=None if conv.residual is None else replace(y, fill=conv.residual.zero),
        dtype=unit.stored,
        result="float32" if conv.y is None else unit.stored,
        instruction=unit.instruction,
        added=_added(conv, unit),
        **bounds,
    )
    products = replace(products, x=products.needed_halo())

    def emit(builder: relax.BlockBuilder, x: relax.Expr, residual: relax.Expr | None) -> relax.Var:
        args = [x, *map(relax.const, _constants(conv, products, weight))]
        args += [] if residual is None else [residual]
        return emit_call(builder, products.name, products.prim_func(), args)

    return Kernel(
        name=products.name,
        products=products,
        pack=lambda: weight.blocks,
        x=products.x,
        y=products.y,
        issued_macs=issued_macs(products),
        cost=issued_macs(products),
        emit=emit,
    )


def _constants(
    conv: QuantizedConvolution, products: QuantizedKGSConv3d, weight: KGSWeight
) -> list[np.ndarray]:
    """What the kernel takes between its input and its residual."""
    product = conv.scales.astype("float32") * np.float32(conv.x.scale)
    bias = None
    if conv.bias is not None:
        bias = np.clip(np.rint(conv.bias / product.astype("float64")), -(2**31), 2**31 - 1)
    whole, planes = products.bias_and_planes(conv.weight, bias)
    target = conv.between or conv.y
    scale = np.zeros(products.stored_filters, "float32")
    scale[: conv.out[1]] = product if target is None else product / np.float32(target.scale)
    constants = [weight.blocks, products.offsets(weight.columns), weight.pointers, whole, scale]
    return constants if planes is None else [*constants, planes]


def _bounds(y: Quantization, relu: bool, ceiling: float | None, unit: DotUnit) -> dict[str, int]:
    """What a result is kept within, counted from its zero point."""
    limits = np.iinfo(unit.stored)
    low, high = int(limits.min) - y.zero, int(limits.max) - y.zero
    if relu:
        low = max(low, 0)
    if ceiling is not None:
        high = min(high, int(np.rint(np.float32(ceiling) / np.float32(y.scale))))
    return {"low": low, "high": max(low, high)}


def _added(conv: QuantizedConvolution, unit: DotUnit) -> QuantizedAdd | None:
    if conv.residual is None:
        return None
    return QuantizedAdd(
        **_bounds(conv.between, conv.inner_relu, conv.inner_ceiling, unit),
        step=conv.between.scale,
        residual_step=conv.residual.scale,
        residual_zero=conv.residual.zero,
        per_step=1 / conv.y.scale,
    )
