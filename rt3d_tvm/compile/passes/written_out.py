"""WrittenOut: operators that are others put together -> those, which kernels can take up.

Before::

    lv = R.nn.prelu(x, slope, axis=1)
    lv1 = R.nn.batch_norm(x, gamma, beta, mean, variance)
    lv2 = lv1[0]

After::

    lv = R.nn.leakyrelu(x, alpha)      # of one slope; of several relu(x) + minimum(x, 0) * slopes
    lv2 = R.add(R.multiply(x, factor), summand)
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import constant, dtype_of, is_op, rewritten, static_shape

PRELU, BATCH_NORM = "relax.nn.prelu", "relax.nn.batch_norm"


@tvm.transform.module_pass(opt_level=0, name="WrittenOut")
class WrittenOut:
    """Rewrite every PReLU and BatchNorm of constants."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with operators that later passes understand."""
        mod = relax.transform.CanonicalizeBindings()(mod)
        return relax.transform.DeadCodeElimination()(rewritten(mod, _Rewriter(mod)))


def why_not(call: relax.Expr) -> str | None:
    """Why an operator is left as it is, or None where it is written out."""
    if is_op(call, PRELU):
        slope, shape = constant(call.args[1]), static_shape(call)
        if slope is None or shape is None:
            return "its slope is no constant, or its shape is not known"
        if slope.size > 1 and slope.shape != (shape[int(call.attrs.axis)],):
            return f"its slopes of shape {slope.shape} are not those of an axis"
        return None
    if is_op(call, BATCH_NORM):
        if any(constant(each) is None for each in call.args[1:]):
            return "it has statistics of its input"
        return "it is training" if bool(call.attrs.training) else None
    return "it is no PReLU and no BatchNorm"


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.norms: dict[relax.Var, relax.Expr] = {}

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """A BatchNorm gives a tuple: what is taken of it stands for the result."""
        value = binding.value
        if is_op(value, BATCH_NORM) and why_not(value) is None:
            self.norms[binding.var] = self.builder_.emit(self.batch_norm(value))
        super().visit_var_binding_(binding)

    def visit_tuple_getitem_(self, item: relax.TupleGetItem) -> relax.Expr:
        """The first of a BatchNorm's results is written out; the others are its statistics."""
        if item.tuple_value in self.norms and item.index == 0:
            return self.norms[item.tuple_value]
        return super().visit_tuple_getitem_(item)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A PReLU in operators on single values."""
        if not is_op(call, PRELU) or why_not(call) is not None:
            return super().visit_call_(call)
        x, slope = self.visit_expr(call.args[0]), constant(call.args[1])
        if slope.size == 1:
            return relax.op.nn.leakyrelu(x, float(slope.item()))
        slopes = _along(slope, int(call.attrs.axis), len(static_shape(call)))
        zero = relax.const(np.zeros((), dtype_of(call)))
        below = self.builder_.emit(relax.op.minimum(x, zero))
        scaled = self.builder_.emit(relax.op.multiply(below, slopes))
        above = self.builder_.emit(relax.op.nn.relu(x))
        return relax.op.add(above, scaled)

    def batch_norm(self, call: relax.Call) -> relax.Expr:
        """x * factor + summand, of each channel."""
        gamma, beta, mean, variance = (constant(each).astype("float64") for each in call.args[1:])
        attrs, shape = call.attrs, static_shape(call.args[0])
        factor = 1 / np.sqrt(variance + float(attrs.epsilon))
        factor = factor * gamma if attrs.scale else factor
        summand = (beta if attrs.center else 0) - mean * factor
        dtype, rank = dtype_of(call.args[0]), len(call.args[0].ty.shape or shape)
        factors, summands = (
            _along(each.astype(dtype), int(attrs.axis), rank) for each in (factor, summand)
        )
        scaled = self.builder_.emit(relax.op.multiply(self.visit_expr(call.args[0]), factors))
        return relax.op.add(scaled, summands)


def _along(values: np.ndarray, axis: int, rank: int) -> relax.Expr:
    """A constant with a value for each place along one axis."""
    shape = [1] * rank
    shape[axis % rank] = values.size
    return relax.const(values.reshape(shape))
