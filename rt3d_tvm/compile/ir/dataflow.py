"""What the passes ask of a Relax function: who uses a value, what shape it has."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

# The types that a quantised value may have.
EIGHT_BIT = ("int8", "uint8")


def follows_from_inputs(function: relax.Function) -> set[relax.Var]:
    """The parameters of a function, and all variables that depend on one."""
    found = set(function.params)
    for binding in bindings(function):
        if any(var in found for var in relax.analysis.free_vars(binding.value)):
            found.add(binding.var)
    return found


def bindings(function: relax.Function) -> list[relax.VarBinding]:
    """Every binding of the function, in order."""
    return [binding for block in function.body.blocks for binding in block.bindings]


def rewritten(mod: tvm.IRModule, rewriter: relax.PyExprMutator) -> tvm.IRModule:
    """The module after ``rewriter.rewrite(name, function)`` of each of its Relax functions."""
    for name, function in mod.functions_items():
        if isinstance(function, relax.Function):
            rewriter.rewrite(name, function)
    return rewriter.builder_.finalize()


def users(function: relax.Function) -> dict[relax.Var, list[relax.VarBinding | None]]:
    """The bindings that read each variable, once for every read; None stands for the result."""
    reads: dict[relax.Var, list[relax.VarBinding | None]] = {}

    def collect(expr, reader):
        def visit(node):
            if isinstance(node, relax.Var):
                reads.setdefault(node, []).append(reader)

        relax.analysis.post_order_visit(expr, visit)

    for binding in bindings(function):
        collect(binding.value, binding)
    collect(function.body.body, None)
    return reads


def only_reader(
    var: relax.Var, reads: dict[relax.Var, list[relax.VarBinding | None]]
) -> relax.VarBinding | None:
    """The binding that reads a variable where nothing else does; None where something does."""
    readers = reads.get(var, [])
    return readers[0] if len(readers) == 1 else None


def static_shape(expr: relax.Expr) -> tuple[int, ...] | None:
    """The extents of a tensor, or None where one is not known at compile time."""
    shape = getattr(expr.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    if not all(isinstance(extent, tvm.tirx.IntImm) for extent in shape.values):
        return None
    return tuple(int(extent) for extent in shape.values)


def known_shape(expr: relax.Expr) -> tuple[int, ...]:
    """The extents of a tensor, of which an analysis has found that they are known."""
    shape = static_shape(expr)
    if shape is None:
        raise TypeError(f"a tensor {expr.ty} has no static shape")
    return shape


def dtype_of(expr: relax.Expr) -> str:
    """The element type of a tensor."""
    return str(expr.ty.dtype.dtype)


def constant(expr: relax.Expr) -> np.ndarray | None:
    """The value of a constant tensor, or None for anything else."""
    if isinstance(expr, tvm.ir.GenericConst):
        return expr.value.numpy()
    return None


def scale_and_zero(call: relax.Call) -> tuple[float, int] | None:
    """Those of a quantisation or dequantisation, where each is one constant number."""
    scale, zero = constant(call.args[1]), constant(call.args[2])
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    return float(scale.item()), int(zero.item())


def known_constant(expr: relax.Expr) -> np.ndarray:
    """The value of what an analysis has found to be a constant tensor."""
    value = constant(expr)
    if value is None:
        raise TypeError(f"a tensor {expr.ty} is no constant")
    return value


def is_op(expr: relax.Expr, name: str) -> bool:
    """Whether the expression calls the Relax operator of that name."""
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name == name


def ints(values) -> tuple[int, ...]:
    """The integers of an attribute, such as strides."""
    return tuple(int(value) for value in values)
