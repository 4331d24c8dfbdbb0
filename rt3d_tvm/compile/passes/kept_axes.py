"""KeptAxes: a mean that drops its axes -> one that keeps them, and a view.

Before::

    lv = R.mean(x, axis=[2, 3, 4], keepdims=False)
    yq = R.quantize(lv, scale, zero)                   # if there

After::

    lv = R.mean(x, axis=[2, 3, 4], keepdims=True)
    lv1 = R.quantize(lv, scale, zero)
    yq = R.reshape(lv1, (B, C))

The mean that keeps its axes is one of packed values, and its one position is plain as it lies.
"""

from __future__ import annotations

import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import is_op, rewritten, scale_and_zero, static_shape


@tvm.transform.module_pass(opt_level=0, name="KeptAxes")
class KeptAxes:
    """Rewrite every mean over axes that it drops."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with views behind its means."""
        return relax.transform.DeadCodeElimination()(rewritten(mod, _Rewriter(mod)))


def why_not(call: relax.Expr) -> str | None:
    """Why this is no mean that drops its axes, or None where it is one."""
    if not is_op(call, "relax.mean") or call.attrs.keepdims:
        return "it is no mean, or keeps its axes"
    if not call.attrs.axis or static_shape(call) is None:
        return "it is a mean of everything, or of a shape that is not known"
    return None


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """``kept``: the mean that a view is of, by the new variable of the view."""

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.kept: dict[relax.Var, relax.Var] = {}
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """The view of a mean, or of its quantisation; else what it was."""
        new = super().visit_call_(call)
        if why_not(call) is None:
            mean = relax.op.mean(new.args[0], axis=list(call.attrs.axis), keepdims=True)
            return self._view(mean, static_shape(call))
        mean = self._mean(new.args[0]) if is_op(call, "relax.quantize") else None
        if mean is not None and scale_and_zero(new) is not None:  # the axis of several would move
            quantized = relax.Call(new.op, [mean, *new.args[1:]], new.attrs)
            return self._view(quantized, static_shape(call))
        return new

    def _mean(self, expr: relax.Expr) -> relax.Var | None:
        """What a view is of, which may have other names by now."""
        while isinstance(expr, relax.Var) and expr not in self.kept:
            expr = self.lookup_binding(expr)
        return self.kept.get(expr)

    def _view(self, value: relax.Call, shape: tuple[int, ...]) -> relax.Var:
        kept = self.builder_.emit(value)
        view = self.builder_.emit(relax.op.reshape(kept, shape))
        self.kept[view] = kept
        return view
