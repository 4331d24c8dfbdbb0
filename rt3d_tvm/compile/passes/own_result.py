"""OwnResult: a model that returns its input, or a constant, returns a copy of it.

Before::

    R.output(x)          # x: a parameter, a constant, or another name of one

After::

    copy = R.call_tir(cls.copy, (x,))
    R.output(copy)

What a function returns is then memory of its own: TVM's RPC cannot send an argument back as the
result, and a caller who overwrites a result would change the input.
"""

from __future__ import annotations

import tvm
from tvm import relax, te, topi

from rt3d_tvm.compile.ir.dataflow import bindings, constant, known_shape, rewritten


@tvm.transform.module_pass(opt_level=0, name="OwnResult")
class OwnResult:
    """Copy what ``main`` returns where nothing computes it."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module, or one whose ``main`` ends with a copy."""
        return mod if why_not(mod["main"]) is not None else rewritten(mod, _Rewriter(mod))


def why_not(main: relax.Function) -> str | None:
    """Why a function returns memory of its own, or None where it does not."""
    named = {binding.var: binding.value for binding in bindings(main)}
    result = main.body.body
    while isinstance(named.get(result), relax.Var):
        result = named[result]
    value = named.get(result, result)
    if isinstance(value, relax.Var) or constant(value) is not None:
        return None
    return "it computes what it returns"


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Let one function end with a copy, and put it back into the module."""
        result = function.body.body
        x = te.placeholder(known_shape(result), result.ty.dtype, "x")
        nest = te.create_prim_func([x, topi.identity(x)]).without_attr("global_symbol")
        copy = self.builder_.add_func(nest, "copy")
        copied = relax.Var("copied", result.ty)
        last = relax.VarBinding(copied, relax.call_tir(copy, [result], result.ty))
        body = relax.SeqExpr([*function.body.blocks, relax.DataflowBlock([last])], copied)
        changed = relax.Function(
            function.params, body, function.ret_ty, function.is_pure, function.attrs
        )
        self.builder_.update_func(name, changed)
