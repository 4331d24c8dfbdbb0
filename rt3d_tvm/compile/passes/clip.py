"""ClipAsOperators: the loop nests that the ONNX importer makes of Clip -> Relax operators.

Before::

    lv = R.call_tir(cls.maximum, (x, const))     # loop nests of TOPI, const being a scalar
    lv1 = R.call_tir(cls.minimum, (lv, const))

After::

    lv = R.nn.relu(x)                            # where the lower bound is 0, else R.maximum
    lv1 = R.minimum(lv, const)

A loop nest is known by its structure, which is compared with the one that TOPI gives.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import relax, topi

from rt3d_tvm.compile.ir.dataflow import (
    constant,
    rewritten,
)
from rt3d_tvm.compile.ir.packed_call import called


@tvm.transform.module_pass(opt_level=0, name="ClipAsOperators")
class ClipAsOperators:
    """Rewrite every maximum and minimum of a tensor and a constant scalar."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with operators that later passes understand."""
        return relax.transform.DeadCodeElimination()(rewritten(mod, _Rewriter(mod)))


def why_not(mod: tvm.IRModule, call: relax.Call) -> str | None:
    """Why a call is no bound of a clip, or None where it is one."""
    func = called(mod, call)
    if func is None:
        return "it calls no loop nest"
    tensors = call.args[1].fields
    if len(tensors) != 2 or getattr(constant(tensors[1]), "ndim", None) != 0:
        return "it does not take a tensor and a constant scalar"
    if _operator(func, tensors) is None:
        return "it computes something else than a maximum or a minimum"
    return None


def _operator(func: tvm.tirx.PrimFunc, tensors: list[relax.Expr]):
    """The Relax operator that computes the same as a loop nest on such tensors, or None."""
    for nest, operator in ((topi.maximum, relax.op.maximum), (topi.minimum, relax.op.minimum)):
        builder = relax.BlockBuilder()
        params = [relax.Var(name, tensor.ty) for name, tensor in zip("xb", tensors, strict=True)]
        with builder.function("main", params):
            builder.emit_func_output(builder.emit_te(nest, *params))
        (same,) = (f for f in builder.get().functions.values() if isinstance(f, tvm.tirx.PrimFunc))
        if tvm_ffi.structural_equal(func, same, map_free_vars=True):
            return operator
    return None


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.mod = mod

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """The operator in place of its loop nest."""
        if why_not(self.mod, call) is not None:
            return super().visit_call_(call)
        x, bound = call.args[1].fields
        operator = _operator(called(self.mod, call), [x, bound])
        if operator is relax.op.maximum and constant(bound) == 0:
            return relax.op.nn.relu(self.visit_expr(x))
        return operator(self.visit_expr(x), bound)
