"""Broadcasts: an operand that is repeated to the shape of the other one -> the operand itself.

Before::

    lv = R.broadcast_to(share, (B, C, D, H, W))        # (B, 1, D, H, W)
    lv1 = R.multiply(x, lv)

After::

    lv1 = R.multiply(x, share)

An operator on single values repeats its operands by itself; packed ones are read where they lie.
"""

from __future__ import annotations

import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import bindings, is_op, rewritten, static_shape
from rt3d_tvm.compile.ir.elementwise_calls import elementwise

BROADCAST = "relax.broadcast_to"


@tvm.transform.module_pass(opt_level=0, name="Broadcasts")
class Broadcasts:
    """Rewrite every operator on single values that reads what was repeated for it."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module without repetitions that nothing else reads."""
        return relax.transform.DeadCodeElimination()(rewritten(mod, _Rewriter(mod)))


def why_not(call: relax.Expr) -> str | None:
    """Why the operands of a call are left as they are, or None where they may be repeated ones."""
    if elementwise(call) is None or len(call.args) != 2:
        return "it is no operator on two values"
    if static_shape(call) is None:
        return "its shape is not known"
    return None


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.bound = {binding.var: binding.value for binding in bindings(function)}
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """The same call, of what is repeated to the shape that the other operand has."""
        if why_not(call) is not None:
            return super().visit_call_(call)
        args = list(call.args)
        for place, other in ((0, 1), (1, 0)):
            value = self.bound.get(args[place]) if isinstance(args[place], relax.Var) else None
            if is_op(value, BROADCAST) and static_shape(args[other]) == static_shape(call):
                args[place] = value.args[0]
        return super().visit_call_(relax.Call(call.op, args, call.attrs))
