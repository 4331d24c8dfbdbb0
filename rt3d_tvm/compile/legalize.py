"""Loop nests for the quantisation of plain tensors: they round to even, as ONNX does."""

from __future__ import annotations

from tvm import relax, te

from rt3d_tvm.compile.ir.dataflow import constant, dtype_of
from topi_sparse.packed import dequantized, quantized


def _numbers(call: relax.Call) -> tuple[float, int] | None:
    """The scale and the zero point, where each is one constant."""
    scale, zero = constant(call.args[1]), constant(call.args[2])
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    return float(scale.item()), int(zero.item())


def _quantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    numbers = _numbers(call)
    if numbers is None:
        return call
    scale, zero = numbers

    def nest(x):
        return te.compute(
            x.shape,
            lambda *i: quantized(x(*i), scale=scale, zero=zero, dtype=dtype_of(call)),
            "quantized",
        )

    return builder.call_te(nest, call.args[0], primfunc_name_hint="quantize")


def _dequantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    numbers = _numbers(call)
    if numbers is None:
        return call
    scale, zero = numbers

    def nest(x):
        return te.compute(
            x.shape, lambda *i: dequantized(x(*i), scale=scale, zero=zero), "dequantized"
        )

    return builder.call_te(nest, call.args[0], primfunc_name_hint="dequantize")


# What LegalizeOps takes in place of its own.
QUANTIZATION = {"relax.quantize": _quantize, "relax.dequantize": _dequantize}
