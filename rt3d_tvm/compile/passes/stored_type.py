"""The one 8-bit type of a module's values: that of the target's instructions.

Before (for uint8)::

    lv = R.quantize(x, scale, const(-3, "int8"), out_dtype="int8")
    lv1 = R.dequantize(lv, scale, const(-3, "int8"))

After::

    lv = R.quantize(x, scale, const(125, "uint8"), out_dtype="uint8")
    lv1 = R.dequantize(lv, scale, const(125, "uint8"))

What a value stands for, (stored - zero) * scale, stays the same. Constants keep their type.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import (
    EIGHT_BIT,
    bindings,
    constant,
    dtype_of,
    is_op,
    known_constant,
    rewritten,
)

# What moves 8-bit values, or takes the largest of them, whatever their zero point is.
MOVING = (
    *("relax.nn.max_pool2d", "relax.nn.max_pool3d", "relax.nn.max_pool1d"),
    *("relax.reshape", "relax.permute_dims", "relax.squeeze", "relax.expand_dims"),
    *("relax.concat", "relax.flatten"),
)


def why_not(main: relax.Function) -> str | None:
    """Why a function's 8-bit values cannot all change their type, or None where they can."""
    for binding in bindings(main):
        call, result = binding.value, _type(binding.var)
        if not isinstance(call, relax.Call):
            continue
        reads = [arg for arg in _tensors(call) if _type(arg) in EIGHT_BIT]
        if is_op(call, "relax.quantize"):
            if result not in EIGHT_BIT or not all(_is_number(arg) for arg in call.args[1:]):
                return f"{binding.var.name} is quantised to {result} or by no one constant"
        elif is_op(call, "relax.dequantize"):
            if reads and not all(_is_number(arg) for arg in call.args[1:]):
                return f"{binding.var.name} is dequantised by no one constant"
        elif (reads or result in EIGHT_BIT) and not any(is_op(call, name) for name in MOVING):
            return f"{binding.var.name} computes with 8-bit values"
        elif any(_type(arg) in EIGHT_BIT for arg in _constants(call)):
            # Read without its zero point, by which its type would change.
            return f"{binding.var.name} moves an 8-bit constant"
    return None


def with_stored_type(mod: tvm.IRModule, stored: str) -> tvm.IRModule:
    """The module whose 8-bit values, constants apart, are of that type."""
    return rewritten(mod, _Rewriter(mod, stored))


def _read(call: relax.Call) -> list[relax.Expr]:
    return [
        tensor
        for arg in call.args
        for tensor in (arg.fields if isinstance(arg, relax.Tuple) else [arg])
    ]


def _tensors(call: relax.Call) -> list[relax.Expr]:
    return [tensor for tensor in _read(call) if isinstance(tensor, relax.Var)]


def _constants(call: relax.Call) -> list[relax.Expr]:
    return [tensor for tensor in _read(call) if constant(tensor) is not None]


def _type(expr: relax.Expr) -> str | None:
    return dtype_of(expr) if isinstance(expr.ty, relax.TensorType) else None


def _is_number(expr: relax.Expr) -> bool:
    value = constant(expr)
    return value is not None and value.size == 1


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def __init__(self, mod: tvm.IRModule, stored: str) -> None:
        super().__init__(mod)
        self.stored = stored

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """The same in the type that is stored."""
        is_quantize = is_op(call, "relax.quantize")
        if not is_quantize and not is_op(call, "relax.dequantize"):
            call = super().visit_call_(call)
            reads = [arg for arg in _tensors(call) if _type(arg) in EIGHT_BIT]
            # Its type is that of what it reads now.
            return relax.Call(call.op, call.args, call.attrs) if reads else call
        x, scale, zero = call.args
        if constant(x) is not None or (not is_quantize and dtype_of(x) not in EIGHT_BIT):
            return super().visit_call_(call)
        zero = known_constant(zero)
        moved = zero.astype("int32") - np.iinfo(zero.dtype).min + np.iinfo(self.stored).min
        scale = relax.const(known_constant(scale).reshape(()))
        zero = relax.const(moved.astype(self.stored).reshape(()))
        x = self.visit_expr(x)
        if is_quantize:
            return relax.op.quantize(x, scale, zero, axis=-1, out_dtype=self.stored)
        return relax.op.dequantize(x, scale, zero, axis=-1)
