"""BoundedTake: no index of a Gather leaves the memory of what it indexes.

Before::

    y = R.take(x, index, axis=1)                 # reads wherever a wrong index points

After::

    y = R.take(x, index, axis=1, mode="clip")    # a wrong index is the nearest right one

Constant indices are checked when a model is read. Those that it computes follow from its inputs.
"""

from __future__ import annotations

import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import is_op, rewritten


@tvm.transform.module_pass(opt_level=0, name="BoundedTake")
class BoundedTake:
    """Bound every call for which ``why_not`` finds no reason."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with bounded indices."""
        return rewritten(mod, _Rewriter(mod))


def why_not(call: relax.Call) -> str | None:
    """Why a call stays as it is, or None."""
    if not is_op(call, "relax.take"):
        return "it is no take"
    return (
        None if call.attrs.mode == "fast" else f"its indices are bounded by mode {call.attrs.mode}"
    )


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A bounded call in place of an unbounded one."""
        call = super().visit_call_(call)
        if why_not(call) is not None:
            return call
        axis = call.attrs.axis
        return relax.op.take(*call.args, None if axis is None else int(axis), mode="clip")
