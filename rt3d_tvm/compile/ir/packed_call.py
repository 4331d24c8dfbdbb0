"""Calls of packed PrimFuncs in Relax: how the passes write them and know them again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import dtype_of, is_op, static_shape
from topi_sparse import packed
from topi_sparse.cpu.depthwise_conv3d import DepthwiseConv3d, depthwise_conv3d
from topi_sparse.cpu.group_norm import GroupNorm, group_norm
from topi_sparse.cpu.kgs_conv2plus1d import KGSConv2Plus1D, kgs_conv2plus1d
from topi_sparse.cpu.kgs_conv3d import KGSConv3d, kgs_conv3d
from topi_sparse.cpu.quantized_depthwise_conv3d import (
    QuantizedDepthwiseConv3d,
    quantized_depthwise_conv3d,
)
from topi_sparse.cpu.quantized_kgs_conv3d import QuantizedKGSConv3d, quantized_kgs_conv3d
from topi_sparse.cpu.winograd import WinogradConv3d, winograd_input, winograd_output
from topi_sparse.layout import PackedLayout
from topi_sparse.opencl.kgs_conv3d import OpenCLKGSConv3d, opencl_kgs_conv3d
from topi_sparse.windows import PackedConv3d

# The attribute of a pack or unpack PrimFunc: what it changes, as JSON.
LAYOUT_ATTRIBUTE = "layout_change"
PackedKernel = PackedConv3d | KGSConv2Plus1D | GroupNorm
# Kernels made of a definition that names its layouts (x, y, residual): the attribute under which
# they carry it -> (the definition's class, what makes the PrimFunc). The first argument is the
# input, the last one the residual, if there.
PACKED_KERNELS: dict[str, tuple[type[PackedKernel], Callable[..., tvm.tirx.PrimFunc]]] = {
    "kgs_conv3d": (KGSConv3d, kgs_conv3d),
    "quantized_kgs_conv3d": (QuantizedKGSConv3d, quantized_kgs_conv3d),
    "kgs_conv2plus1d": (KGSConv2Plus1D, kgs_conv2plus1d),
    "opencl_kgs_conv3d": (OpenCLKGSConv3d, opencl_kgs_conv3d),
    "group_norm": (GroupNorm, group_norm),
    "depthwise_conv3d": (DepthwiseConv3d, depthwise_conv3d),
    "quantized_depthwise_conv3d": (QuantizedDepthwiseConv3d, quantized_depthwise_conv3d),
    "winograd_input": (WinogradConv3d, winograd_input),
    "winograd_output": (WinogradConv3d, winograd_output),
}


def emit_call(
    builder: relax.BlockBuilder, name: str, func: tvm.tirx.PrimFunc, args: list
) -> relax.Var:
    """Emit a call_tir of ``func``, whose last parameter is the result; equal functions are shared.

    The module names it after ``name``: a global symbol of its own would keep it from being fused.
    """
    out = func.params[-1].ty
    function = builder.add_func(func.without_attr("global_symbol"), name)
    return builder.emit(
        relax.call_tir(function, args, relax.TensorType(tuple(out.shape), out.dtype.dtype))
    )


def emit_pack(
    builder: relax.BlockBuilder,
    x: relax.Expr,
    layout: PackedLayout,
    dtype: str,
    pack: Callable[..., tvm.tirx.PrimFunc] = packed.pack,
) -> relax.Var:
    """Emit the change of a plain tensor into ``layout`` and ``dtype``.

    pack: what makes the PrimFunc.
    """
    data, plain = static_shape(x), dtype_of(x)
    function = pack(data, layout, dtype, plain=plain)
    return emit_call(builder, "pack", _marked(function, "pack", data, layout, dtype), [x])


def emit_unpack(
    builder: relax.BlockBuilder,
    x: relax.Expr,
    data: tuple[int, ...],
    layout: PackedLayout,
    plain: str,
) -> relax.Var:
    """Emit the change from ``layout`` into a plain tensor of shape ``data`` and type ``plain``."""
    dtype = dtype_of(x)
    function = packed.unpack(data, layout, dtype, plain=plain)
    return emit_call(builder, "unpack", _marked(function, "unpack", data, layout, dtype), [x])


def is_view(mod: tvm.IRModule, call: relax.Expr) -> bool:
    """Whether a pack or unpack changes no byte: one position, whole blocks, one type."""
    change = layout_change(mod, call)
    if change is None or dtype_of(call) != dtype_of(call.args[1].fields[0]):
        return False
    data, layout = change["data"], PackedLayout(**change["layout"])
    one_position = layout.shape(tuple(data))[2:5] == (1, 1, 1)
    return one_position and data[1] % layout.c_block == 0


def _marked(
    function: tvm.tirx.PrimFunc, kind: str, data, layout: PackedLayout, dtype: str
) -> tvm.tirx.PrimFunc:
    mark = {"kind": kind, "data": data, "layout": asdict(layout), "dtype": dtype}
    return function.with_attr({LAYOUT_ATTRIBUTE: json.dumps(mark)})


def called(mod: tvm.IRModule, call: relax.Expr) -> tvm.tirx.PrimFunc | None:
    """The PrimFunc that a call_tir calls, or None for anything else."""
    return mod[call.args[0]] if is_op(call, "relax.call_tir") else None


def layout_change(mod: tvm.IRModule, call: relax.Expr) -> dict | None:
    """What a call of pack or unpack changes (kind, data, layout, packed dtype), or None."""
    func = called(mod, call)
    if func is None or LAYOUT_ATTRIBUTE not in func.attrs:
        return None
    return json.loads(func.attrs[LAYOUT_ATTRIBUTE])


def packed_kernel(
    func: tvm.tirx.PrimFunc,
) -> tuple[str, PackedKernel] | None:
    """The name and the definition of a packed kernel, or None for another function."""
    for name, (definition, _) in PACKED_KERNELS.items():
        if name in func.attrs:
            return name, definition.from_json(func.attrs[name])
    return None


def tunable(func: tvm.tirx.PrimFunc | None) -> KGSConv3d | None:
    """The definition of a kernel that there is something to choose for, or None."""
    kernel = None if func is None else packed_kernel(func)
    if kernel is None or not isinstance(kernel[1], KGSConv3d):
        return None
    # The search knows no row blocks that are of one phase.
    return kernel[1] if kernel[1].interleave == (1, 1, 1) else None
