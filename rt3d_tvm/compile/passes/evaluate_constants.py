"""EvaluateConstants: what the importer leaves to compute from constants, computed by numpy.

Before::

    lv = R.isnan(R.const(0, "float32"))                        # of a Clip's bound
    lv1 = R.where(lv, R.const("-inf", "float32"), R.const(0, "float32"))
    lv2 = R.reshape(const, (1, 64, 1, 1, 1))                   # of a bias
    lv3 = R.add(x, lv2)
    lv4 = R.quantize(const, scales, zeros, axis=0)             # of a weight
    lv5 = R.dequantize(lv4, scales, zeros, axis=0)

After::

    lv3 = R.add(x, const)
    lv5 = R.dequantize(const, scales, zeros, axis=0)           # of an int8 constant

FoldConstant, which comes next and does all operators, compiles a function for each call of one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import constant, dtype_of, rewritten, static_shape


@tvm.transform.module_pass(opt_level=0, name="EvaluateConstants")
class EvaluateConstants:
    """Put constants in place of the calls for which ``why_not`` finds no reason."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with fewer bindings."""
        return rewritten(mod, _Rewriter(mod))


def why_not(call: relax.Call, operands: list[relax.Expr]) -> str | None:
    """Why a call on such operands is left to FoldConstant, or None where numpy evaluates it."""
    if not isinstance(call.op, tvm.ir.Op) or call.op.name not in _OPERATORS:
        return f"it calls none of {', '.join(_OPERATORS)}"
    if static_shape(call) is None:
        return f"its shape {call.ty} is not static"
    if any(constant(operand) is None for operand in operands):
        return "it reads what is no constant"
    return None


def _view(call: relax.Call, x: np.ndarray) -> np.ndarray:
    return x.reshape(static_shape(call))


def _where(_call: relax.Call, chosen: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    return np.where(chosen, yes, no)


def _transpose(call: relax.Call, x: np.ndarray) -> np.ndarray:
    axes = call.attrs.axes
    return np.transpose(x, None if axes is None else [int(axis) for axis in axes])


def _quantize(call: relax.Call, x: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """As ONNX says: ties to the even step, then kept within the type."""
    along = [1] * x.ndim
    if max(scale.size, zero.size) > 1:
        along[int(call.attrs.axis) % x.ndim] = -1
    limits = np.iinfo(dtype_of(call))
    with np.errstate(over="ignore"):  # too many steps are the last one
        steps = np.rint(x / scale.reshape(along))
    return np.clip(steps + zero.reshape(along).astype("float32"), limits.min, limits.max)


_OPERATORS: dict[str, Callable[..., np.ndarray]] = {
    "relax.isnan": lambda _call, x: np.isnan(x),
    # Of the indices of a Gather, which count from the end where they are below 0.
    "relax.less": lambda _call, x, y: np.less(x, y),
    "relax.add": lambda _call, x, y: np.add(x, y),
    "relax.where": _where,
    "relax.reshape": _view,
    "relax.expand_dims": _view,
    "relax.squeeze": _view,
    "relax.permute_dims": _transpose,
    "relax.quantize": _quantize,
}


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Keeps the constants of variables, and reads them in their place."""

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.value_of: dict[relax.Var, relax.Expr] = {}

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Nothing for what has become a constant, unless it is a result."""
        call = binding.value
        if isinstance(call, relax.Call):
            tensors = [arg for arg in call.args if not isinstance(arg, relax.ShapeExpr)]
            operands = [self.value_of.get(tensor, tensor) for tensor in tensors]
            if why_not(call, operands) is None:
                value = _OPERATORS[call.op.name](call, *map(constant, operands))
                self.value_of[binding.var] = relax.const(value.astype(dtype_of(call)))
                if isinstance(binding.var, relax.DataflowVar):
                    return
        super().visit_var_binding_(binding)

    def visit_var_(self, var: relax.Var) -> relax.Expr:
        """The constant where there is one."""
        return self.value_of.get(var) or super().visit_var_(var)

    def visit_dataflow_var_(self, var: relax.DataflowVar) -> relax.Expr:
        """The constant where there is one."""
        return self.value_of.get(var) or super().visit_dataflow_var_(var)
