"""depthwise_conv3d: each filter has a channel to itself, and there are no kernel groups."""

from __future__ import annotations

import math
from dataclasses import replace

from tvm import relax

from rt3d_tvm.compile.ir.packed_call import emit_call
from rt3d_tvm.compile.kernels.cost import MULTIPLY_ADDS_A_BYTE
from rt3d_tvm.compile.kernels.kernel import Candidate, Convolution, Kernel, padded_bias
from topi_sparse.cpu.depthwise_conv3d import (
    DepthwiseConv3d,
    default_width,
    packed_windows,
)
from topi_sparse.cpu.register_tile import VectorUnit
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.layout import PackedLayout


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
        bias = padded_bias(conv.bias, channels, stored, definition.dtype)
        args = [x, relax.const(windows), bias]
        if residual is not None:
            args.append(residual)
        return emit_call(builder, definition.name, definition.prim_func(), args)

    issued = windows.size * conv.out[0] * math.prod(conv.out[2:])
    moved = windows.itemsize * (math.prod(conv.data) + 2 * math.prod(conv.out))
    return Kernel(
        name=definition.name,
        products=definition,
        pack=lambda: windows,
        x=definition.x,
        y=layout,
        issued_macs=issued,
        cost=issued + MULTIPLY_ADDS_A_BYTE * moved,
        emit=emit,
    )


DEPTHWISE = Candidate(why_not=why_not_depthwise, make=depthwise)
