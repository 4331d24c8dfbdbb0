"""The kernels of a convolution between 8-bit tensors, dense, in kernel groups or depthwise."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax

from rt3d_tvm.compile.ir.packed_call import emit_call
from rt3d_tvm.compile.kernels.kernel import Kernel, issued_macs
from topi_sparse.cpu.depthwise_conv3d import default_width
from topi_sparse.cpu.dot_unit import CHANNELS, DotUnit
from topi_sparse.cpu.quantized_choice import quantized_group, quantized_tile_of
from topi_sparse.cpu.quantized_depthwise_conv3d import QuantizedDepthwiseConv3d
from topi_sparse.cpu.quantized_kgs_conv3d import QuantizedKGSConv3d
from topi_sparse.cpu.quantized_sums import MAX_ACTIVATION, MAX_TERMS, QuantizedAdd
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
    depthwise  each filter has a channel to itself, N is 1; other groups are written out, with zeros
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
    depthwise: bool = False


def why_not_quantized(conv: QuantizedConvolution) -> str | None:
    """Why there is no 8-bit kernel for it, or None where there is one."""
    terms = math.prod(conv.weight.shape[1:])
    if terms > MAX_TERMS:
        return f"its sums have {terms} terms; up to {MAX_TERMS} are sure to fit int32"
    if conv.bias is not None:
        steps = conv.bias / (conv.scales.astype("float64") * conv.x.scale)
        products = MAX_ACTIVATION * abs(conv.weight.astype("int64")).sum(axis=(1, 2, 3, 4))
        most = float((abs(steps) + products).max())
        if not most < 2**31:
            return f"with its bias its sums reach {most:.3g} steps; below {2**31} they fit int32"
    return None


def quantized(conv: QuantizedConvolution, unit: DotUnit, group: KernelGroup | None) -> Kernel:
    """The kernel, in the group that fits its zeros where none is given."""
    return _depthwise(conv, unit) if conv.depthwise else _in_groups(conv, unit, group)


def _in_groups(conv: QuantizedConvolution, unit: DotUnit, group: KernelGroup | None) -> Kernel:
    """quantized_kgs_conv3d."""
    n = conv.weight.shape[1]
    if group is None or group.g_n != CHANNELS:
        height = None if group is None else group.g_m
        group = quantized_group(conv.weight, out_width=conv.out[4], unit=unit)
        group = group if height is None else KernelGroup(g_m=height, g_n=CHANNELS)
    tile = quantized_tile_of(group, channels=n, out_width=conv.out[4], unit=unit)
    weight = KGSWeight.from_dense(
        conv.weight,
        group=group,
        chunk=tile.chunk,
        row_multiple=unit.block,
        **unit.products.packing,
    )
    products = QuantizedKGSConv3d(
        group=group,
        kept=weight.kept,
        weights=weight.blocks.size,
        tile=tile,
        instruction=unit.instruction,
        **_fields(conv, unit, c_block=unit.block if n >= CHANNELS else CHANNELS),
    )
    products = replace(products, x=products.needed_halo())
    stored = [weight.blocks, products.offsets(weight.columns), weight.pointers]
    return _kernel(conv, products, stored, issued=issued_macs(products))


def _depthwise(conv: QuantizedConvolution, unit: DotUnit) -> Kernel:
    """quantized_depthwise_conv3d: no kernel group, since no input is shared."""
    products = QuantizedDepthwiseConv3d(
        width=default_width(out_width=conv.out[4], kernel_w=conv.weight.shape[4], unit=unit),
        instruction=unit.depthwise,
        **_fields(conv, unit, c_block=unit.block),
    )
    products = replace(products, x=products.needed_halo())
    windows = products.packed_windows(conv.weight)
    issued = windows.size * conv.out[0] * math.prod(conv.out[2:])
    return _kernel(conv, products, [windows], issued=issued)


def _fields(conv: QuantizedConvolution, unit: DotUnit, *, c_block: int) -> dict:
    """What both definitions have: the windows, the layouts, what becomes of a sum."""
    y = PackedLayout(c_block=unit.block, fill=0 if conv.y is None else conv.y.zero)
    bounds = {} if conv.y is None else _bounds(conv.y, conv.relu, conv.ceiling, unit)
    return {
        "data": conv.data,
        "filters": conv.out[1],
        "kernel": conv.weight.shape[2:],
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "relu": conv.relu,
        "ceiling": conv.ceiling,
        "x": PackedLayout(c_block=c_block, fill=conv.x.zero),
        "y": y,
        "residual": None if conv.residual is None else replace(y, fill=conv.residual.zero),
        "dtype": unit.stored,
        "result": "float32" if conv.y is None else unit.stored,
        "added": _added(conv, unit),
        **bounds,
    }


def _kernel(
    conv: QuantizedConvolution,
    products: QuantizedKGSConv3d | QuantizedDepthwiseConv3d,
    stored: list[np.ndarray],
    *,
    issued: int,
) -> Kernel:
    """The call of what ``products`` defines; ``stored``: its weights, and where they are read."""

    def emit(builder: relax.BlockBuilder, x: relax.Expr, residual: relax.Expr | None) -> relax.Var:
        args = [x, *map(relax.const, [*stored, *_of_sums(conv, products)])]
        args += [] if residual is None else [residual]
        return emit_call(builder, products.name, products.prim_func(), args)

    return Kernel(
        name=products.name,
        products=products,
        pack=lambda: stored[0],
        x=products.x,
        y=products.y,
        issued_macs=issued,
        cost=issued,
        emit=emit,
    )


def _of_sums(
    conv: QuantizedConvolution, products: QuantizedKGSConv3d | QuantizedDepthwiseConv3d
) -> list[np.ndarray]:
    """What the kernel takes between its weights and its residual."""
    product = conv.scales.astype("float32") * np.float32(conv.x.scale)
    bias = None
    if conv.bias is not None:
        bias = np.clip(np.rint(conv.bias / product.astype("float64")), -(2**31), 2**31 - 1)
    whole, planes = products.bias_and_planes(conv.weight, bias)
    target = conv.between or conv.y
    scale = np.zeros(products.stored_filters, "float32")
    scale[: conv.out[1]] = product if target is None else product / np.float32(target.scale)
    return [whole, scale] if planes is None else [whole, scale, planes]


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
