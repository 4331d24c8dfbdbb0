"""OwnResult: a model that returns its input, or a constant, returns a copy of it.

Before::

    R.output(x)          # x: a parameter, a constant, or another name of one

After::

    copy = R.call_tir(cls.copy, (x,))
    R.output(copy)

Of several results each one is, also where it is the same as another.

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
        """The module, or one whose ``main`` ends with copies."""
        return mod if why_not(mod["main"]) is not None else rewritten(mod, _Rewriter(mod))


def why_not(main: relax.Function) -> str | None:
    """Why a function returns memory of its own, or None where it does not."""
    return None if any(_is_of_others(main)) else "it computes what it returns"


def _is_of_others(main: relax.Function) -> list[bool]:
    """Of each result, whether it is a parameter, a constant or the same as one before."""
    named = {binding.var: binding.value for binding in bindings(main)}

    def source(expr: relax.Expr) -> relax.Expr:
        while isinstance(named.get(expr), relax.Var):
            expr = named[expr]
        return expr

    result = source(main.body.body)
    value = named.get(result, result)
    fields = list(map(source, value.fields)) if isinstance(value, relax.Tuple) else [result]
    return [
        constant(named.get(field, field)) is not None
        or isinstance(named.get(field, field), relax.Var)
        or field in fields[:place]
        for place, field in enumerate(fields)
    ]


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Let one function end with copies, and put it back into the module."""
        self.copied, self.result = _is_of_others(function), function.body.body
        changed = self.visit_expr(function)
        if len(self.copied) == 1:
            result = changed.body.body
            copied = relax.Var("copied", result.ty)
            last = relax.VarBinding(copied, self.copy(result))
            body = relax.SeqExpr([*changed.body.blocks, relax.DataflowBlock([last])], copied)
            changed = relax.Function(
                changed.params, body, changed.ret_ty, changed.is_pure, changed.attrs
            )
        self.builder_.update_func(name, changed)

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Copies in the tuple that is the result."""
        if len(self.copied) == 1 or not binding.var.same_as(self.result):
            super().visit_var_binding_(binding)
            return
        fields = [
            self.builder_.emit(self.copy(self.visit_expr(field))) if of_others else field
            for field, of_others in zip(binding.value.fields, self.copied, strict=True)
        ]
        fields = [self.visit_expr(field) for field in fields]
        var = self.visit_var_def(binding.var)
        self.builder_.emit_normalized(relax.VarBinding(var, relax.Tuple(fields)))

    def copy(self, result: relax.Expr) -> relax.Call:
        """A call that copies a tensor."""
        x = te.placeholder(known_shape(result), result.ty.dtype, "x")
        nest = te.create_prim_func([x, topi.identity(x)]).without_attr("global_symbol")
        return relax.call_tir(self.builder_.add_func(nest, "copy"), [result], result.ty)
