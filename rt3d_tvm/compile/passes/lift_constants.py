"""lift_constants: the constants of a function -> further parameters of it.

Before::

    def main(clip): lv = R.call_tir(cls.kgs_conv3d, (clip, const, const)) ...

After::

    def main(clip, w0, w1): lv = R.call_tir(cls.kgs_conv3d, (clip, w0, w1)) ...

Constants inside a library are parsed and copied at every load; as parameters they stay in a mapped
file.
"""

from __future__ import annotations

import hashlib

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import constant


def lift_constants(mod: tvm.IRModule, name: str = "main") -> tuple[tvm.IRModule, list[np.ndarray]]:
    """The module whose function ``name`` takes its constants as parameters, and their values."""
    lifter = _Lifter(mod)
    variable = mod.get_global_var(name)
    function = lifter.visit_expr(mod[variable])
    lifter.builder_.update_func(
        variable,
        relax.Function(
            [*function.params, *lifter.params],
            function.body,
            function.ret_ty,
            is_pure=function.is_pure,
            attrs=function.attrs,
        ),
    )
    return lifter.builder_.finalize(), lifter.values


@relax.expr_functor.mutator
class _Lifter(relax.PyExprMutator):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.params: list[relax.Var] = []
        self.values: list[np.ndarray] = []
        self.param_of: dict[tuple, relax.Var] = {}

    def visit_generic_const_(self, const: tvm.ir.GenericConst) -> relax.Expr:
        """A parameter in place of a tensor; equal ones share theirs."""
        value = np.array(constant(const), order="C")
        key = (value.dtype.str, value.shape, hashlib.sha256(value.data).digest())
        if key not in self.param_of:
            self.param_of[key] = relax.Var(f"w{len(self.params)}", const.ty)
            self.params.append(self.param_of[key])
            self.values.append(value)
        return self.param_of[key]
