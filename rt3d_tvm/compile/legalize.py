"""Loop nests for the quantisation of plain tensors: they round to even, as ONNX does."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax, te

from rt3d_tvm.compile.ir.dataflow import dtype_of, scale_and_zero
from topi_sparse.packed import dequantized, quantized


def _quantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return _elementwise(
        builder, call, lambda value, **numbers: quantized(value, dtype=dtype_of(call), **numbers)
    )


def _dequantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return _elementwise(builder, call, dequantized)


def _elementwise(builder: relax.BlockBuilder, call: relax.Call, function: Callable) -> relax.Expr:
    """``function`` of each element, with the scale and zero point of the call."""
    numbers = scale_and_zero(call)
    if numbers is None:
        return call
    scale, zero = numbers

    def nest(x):
        return te.compute(x.shape, lambda *i: function(x(*i), scale=scale, zero=zero), "element")

    name = call.op.name.rsplit(".", 1)[-1]
    return builder.call_te(nest, call.args[0], primfunc_name_hint=name)


# What LegalizeOps takes in place of its own.
QUANTIZATION = {"relax.quantize": _quantize, "relax.dequantize": _dequantize}
