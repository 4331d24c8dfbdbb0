"""ZeroFactors: a scalar 0 that multiplies or divides stays a number that is computed with.

Before::

    lv = R.multiply(x, R.const(0, "float32"))
    lv1 = R.divide(y, R.const(0, "float32"))
    lv2 = R.nn.leakyrelu(z, alpha=0)

After::

    lv = R.multiply(x, R.const([0], "float32"))
    lv1 = R.divide(y, R.const([0], "float32"))
    lv2 = R.nn.relu(z)

TVM writes a scalar constant into the loop nest, takes 0 * x and 0 / x for 0 even where x is a NaN
or infinite, and ends on x / 0. A tensor of one element is read like any other.
"""

from __future__ import annotations

import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import constant, is_op, rewritten

_FACTORS = ("relax.multiply", "relax.divide")


@tvm.transform.module_pass(opt_level=0, name="ZeroFactors")
class ZeroFactors:
    """Rewrite every product and quotient of a tensor and a constant scalar that is 0."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module in which no scalar 0 is left for TVM to fold."""
        return rewritten(mod, _Rewriter(mod))


def why_not(call: relax.Call) -> str | None:
    """Why a call has no factor that TVM would fold to 0, or None where it has one."""
    if is_op(call, "relax.nn.leakyrelu"):
        return None if float(call.attrs.alpha) == 0 else f"its alpha is {call.attrs.alpha}, not 0"
    if not any(is_op(call, name) for name in _FACTORS):
        return "it is no product, quotient or LeakyRelu"
    if not any(map(_is_zero, call.args)):
        return "none of its operands is a constant scalar 0"
    return None


def _is_zero(expr: relax.Expr) -> bool:
    value = constant(expr)
    return value is not None and value.ndim == 0 and value.dtype.kind == "f" and value == 0


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """The same call of a tensor of one element, or a ReLU."""
        if why_not(call) is not None:
            return super().visit_call_(call)
        args = [
            relax.const(constant(arg).reshape(1)) if _is_zero(arg) else self.visit_expr(arg)
            for arg in call.args
        ]
        if is_op(call, "relax.nn.leakyrelu"):
            return relax.op.nn.relu(*args)
        return relax.Call(call.op, args, call.attrs)
