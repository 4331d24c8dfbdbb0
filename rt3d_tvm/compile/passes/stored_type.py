"""The one 8-bit type of a module's values: that of the target's instructions.

Before (for uint8)::

    lv = R.quantize(x, scale, const(-3, "int8"), out_dtype="int8")
    lv1 = R.nn.max_pool3d(lv, ...)
    lv2 = R.dequantize(lv1, scale, const(-3, "int8"))

After::

    lv = R.quantize(x, scale, const(125, "uint8"), out_dtype="uint8")
    lv1 = R.nn.max_pool3d(lv, ...)
    lv2 = R.dequantize(lv1, scale, const(125, "uint8"))

Every value is stored 128 higher or lower, and what it stands for, (stored - zero) * scale, stays
the same. Operators that move values, take the largest of some or bound them do the same with those;
a constant among their tensors, or a bound, moves with them. For any other operator its values are
brought back to their own type, and for a dequantisation behind it to that of the module.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import (
    EIGHT_BIT,
    constant,
    dtype_of,
    is_op,
    known_constant,
    rewritten,
    scale_and_zero,
)

# What moves values, or takes the largest of them.
MOVING = (
    *("relax.nn.max_pool2d", "relax.nn.max_pool3d", "relax.nn.max_pool1d"),
    *("relax.reshape", "relax.permute_dims", "relax.squeeze", "relax.expand_dims"),
    *("relax.concat", "relax.flatten", "relax.strided_slice", "relax.split"),
    *("relax.minimum", "relax.maximum"),
)


def with_stored_type(mod: tvm.IRModule, stored: str) -> tvm.IRModule:
    """The module whose quantised values, constants apart, are of that type."""
    return rewritten(mod, _Rewriter(mod, stored))


def _type(expr: relax.Expr) -> str | None:
    return dtype_of(expr) if isinstance(expr.ty, relax.TensorType) else None


def _shifted(value: np.ndarray, stored: str) -> np.ndarray:
    """The same distance from the smallest number of another type."""
    moved = value.astype("int32") - np.iinfo(value.dtype).min + np.iinfo(stored).min
    return moved.astype(stored)


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """``moved``: the variables whose new value is of the type stored, which theirs is not."""

    def __init__(self, mod: tvm.IRModule, stored: str) -> None:
        super().__init__(mod)
        self.stored = stored
        self.moved: set[relax.Var] = set()
        self.back: dict[relax.Var, relax.Var] = {}

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """The same in the type that is stored, or on values in the type that they had."""
        var, value = binding.var, binding.value
        new = self._moved(var, value)
        if new is None:
            self._visited(binding)
            return
        if self._differs(var):
            self.moved.add(var)
        is_inner = isinstance(var, relax.DataflowVar)
        emit = self.builder_.emit if is_inner else self.builder_.emit_output
        self.set_var_remap(var, emit(new))

    def _visited(self, binding: relax.VarBinding) -> None:
        """The binding as it is; what it reads of the values that have moved comes back first."""
        read = [var for var in relax.analysis.free_vars(binding.value) if var in self.moved]
        now = {var: self.visit_expr(var) for var in read}
        for var in read:
            if var not in self.back:
                self.back[var] = self._converted(now[var], dtype_of(var))
            self.set_var_remap(var, self.back[var])
        super().visit_var_binding_(binding)
        for var, value in now.items():
            self.set_var_remap(var, value)

    def _moved(self, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        """What comes in place of a value, or None where it is left as it is."""
        if isinstance(value, relax.Var):
            return self.visit_expr(value) if value in self.moved else None
        if isinstance(value, relax.TupleGetItem):
            whole = value.tuple_value
            if whole not in self.moved:
                return None
            return relax.TupleGetItem(self.visit_expr(whole), value.index)
        if not isinstance(value, relax.Call):
            return None
        if is_op(value, "relax.quantize"):
            return self._quantized(var, value)
        if is_op(value, "relax.dequantize"):
            return self._dequantized(value)
        if is_op(value, "relax.nn.relu") and value.args[0] in self.moved:
            return relax.op.maximum(self.visit_expr(value.args[0]), self._bound(value.args[0]))
        if any(is_op(value, name) for name in MOVING):
            return self._same(value)
        return None

    def _differs(self, var: relax.Var) -> bool:
        """Whether a value of this type, or of a tuple of it, is not of the type that is stored."""
        fields = var.ty.fields if isinstance(var.ty, relax.TupleType) else [var.ty]
        types = {str(field.dtype.dtype) for field in fields}
        return bool(types & set(EIGHT_BIT)) and types != {self.stored}

    def _quantized(self, var: relax.Var, call: relax.Call) -> relax.Call | None:
        x, scale, zero = call.args
        if constant(x) is not None or _type(var) not in EIGHT_BIT or scale_and_zero(call) is None:
            return None
        return relax.op.quantize(
            self.visit_expr(x), *self._numbers(scale, zero), axis=-1, out_dtype=self.stored
        )

    def _dequantized(self, call: relax.Call) -> relax.Call | None:
        x, scale, zero = call.args
        is_stored = isinstance(x, relax.Var) and _type(x) in EIGHT_BIT
        if not is_stored or scale_and_zero(call) is None:
            return None
        return relax.op.dequantize(self._stored(x), *self._numbers(scale, zero), axis=-1)

    def _numbers(self, scale: relax.Expr, zero: relax.Expr) -> list[relax.Expr]:
        """A scale and a zero point, of one number each, for values of the type that is stored."""
        numbers = known_constant(scale), _shifted(known_constant(zero), self.stored)
        return [relax.const(each.reshape(())) for each in numbers]

    def _bound(self, x: relax.Expr) -> relax.Expr:
        """Zero, among values that have moved."""
        return relax.const(_shifted(np.zeros((), dtype_of(x)), self.stored))

    def _same(self, call: relax.Call) -> relax.Call | None:
        """The same operator on values that have moved, all of them; None where none has."""
        first, *others = call.args
        tensors = list(first.fields) if isinstance(first, relax.Tuple) else [first]
        bounds = any(is_op(call, f"relax.{name}") for name in ("minimum", "maximum"))
        tensors += [others.pop(0)] if bounds else []
        if not any(tensor in self.moved for tensor in tensors):
            return None
        new = [self._stored(tensor) for tensor in tensors]
        if isinstance(first, relax.Tuple):
            return relax.Call(call.op, [relax.Tuple(new), *others], call.attrs)
        return relax.Call(call.op, [*new, *others], call.attrs)

    def _stored(self, tensor: relax.Expr) -> relax.Expr:
        """A tensor of 8 bits in the type that is stored."""
        value = constant(tensor)
        if value is not None:
            return relax.const(_shifted(value, self.stored))
        new = self.visit_expr(tensor)
        return new if _type(new) == self.stored else self._converted(new, self.stored)

    def _converted(self, value: relax.Expr, dtype: str) -> relax.Var:
        """A value that is moved into another type."""
        shift = int(np.iinfo(dtype).min) - int(np.iinfo(dtype_of(value)).min)
        emit = self.builder_.emit
        wide = emit(relax.op.astype(value, "int32"))
        return emit(relax.op.astype(emit(relax.op.add(wide, relax.const(shift, "int32"))), dtype))
