"""T.max and T.min of a kernel as a device computes them so that a NaN stays one.

Before::

    y[i] = T.min(T.max(x[i], 0), 6)

After, with NEON, whose fmax and fmin keep a NaN::

    y[i] = llvm.minimum(llvm.maximum(x[i], 0), 6)

After, elsewhere: on x86 one maxps and one minps, which for a NaN give their second operand::

    y[i] = T.Let(v, x[i], T.Select(v < 0, 0, v)) ...

Left alone, T.max(x, 0) of a NaN is 0 on x86 and AArch64, and undefined in OpenCL C. What is kept
costs nothing where one operand is a constant. Of several values any may be a NaN::

    y[i] = T.Select(a <= inf and b <= inf and c <= inf, T.max(T.max(a, b), c), nan)
"""

from __future__ import annotations

import functools
import operator

import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.target import Target
from tvm.target.codegen import target_has_features

_FLOATS = ("float16", "float32", "float64")
_LLVM_NAMES = {tirx.Max: "llvm.maximum", tirx.Min: "llvm.minimum"}

Extremum = tirx.Max | tirx.Min


def keeping_nan(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """The same function with every maximum and minimum of floats written as ``target`` needs it."""
    with_intrinsic = target.kind.name == "llvm" and target_has_features("neon", target)
    write = _by_intrinsic if with_intrinsic else _Selects().write

    def written(node: Extremum) -> tirx.PrimExpr:
        return write(node) if _element(node) in _FLOATS else node

    return func.with_body(tvm_ffi.structural_map(func.body, ((tirx.Max, tirx.Min), written)))


def _by_intrinsic(node: Extremum) -> tirx.PrimExpr:
    name = _LLVM_NAMES[type(node)]
    return tirx.call_llvm_pure_intrin(str(node.ty.dtype), name, node.a, node.b)


class _Selects:
    """Writes the extrema of one function, from the innermost to the outermost.

    taken_of  what was written, its kind, and the operands that it is the extremum of: where it is
              itself an operand of one of the same kind, they take its place there
    """

    def __init__(self) -> None:
        self.taken_of: list[tuple[tirx.PrimExpr, type, list[tirx.PrimExpr]]] = []

    def write(self, node: Extremum) -> tirx.PrimExpr:
        """One extremum, whose operands are written already."""
        kind = type(node)
        operands = [*self.operands(node.a, kind), *self.operands(node.b, kind)]
        values = [operand for operand in operands if _number(operand) is None]
        if not values:
            return node
        no_bound = -float("inf") if kind is tirx.Max else float("inf")
        bounds = [operand for operand in operands if _number(operand) not in (None, no_bound)]
        result = _of_values(values, kind)
        if bounds:
            result = _bounded(result, (max if kind is tirx.Max else min)(bounds, key=_number), kind)
        self.taken_of.append((result, kind, operands))
        return result

    def operands(self, node: tirx.PrimExpr, kind: type) -> list[tirx.PrimExpr]:
        """What an operand is itself an extremum of, of the same kind; else the operand."""
        for written, its_kind, operands in self.taken_of:
            if its_kind is kind and written.same_as(node):
                return operands
        return [node]


def _of_values(values: list[tirx.PrimExpr], kind: type) -> tirx.PrimExpr:
    if len(values) == 1:
        return values[0]
    lets, names = [], []
    for value in values:  # each is read several times
        is_read = isinstance(value, tirx.Var | TensorLoad)
        names.append(value if is_read else tirx.Var("v", str(value.ty.dtype)))
        if not is_read:
            lets.append((names[-1], value))
    numbers = [name <= _like(name, float("inf")) for name in names]
    if len(names) == 2:
        one, other = names
        result = tirx.Select(numbers[1], _beyond(one, other, kind), other)
    else:
        # A NaN of float16 is none in what TVM writes as OpenCL C; the sum is one here as well.
        half = _element(names[0]) == "float16"
        nan = functools.reduce(operator.add, names) if half else _like(names[0], float("nan"))
        result = tirx.Select(tirx.all(*numbers), functools.reduce(kind, names), nan)
    for name, value in reversed(lets):
        result = tirx.Let(name, value, result)
    return result


def _bounded(value: tirx.PrimExpr, bound: tirx.PrimExpr, kind: type) -> tirx.PrimExpr:
    name = tirx.Var("v", str(value.ty.dtype))
    return tirx.Let(name, value, _beyond(name, bound, kind))


def _beyond(one: tirx.PrimExpr, other: tirx.PrimExpr, kind: type) -> tirx.PrimExpr:
    """``other`` where it is beyond ``one``, which nothing is of a NaN."""
    return tirx.Select(one < other if kind is tirx.Max else other < one, other, one)


def _number(node: tirx.PrimExpr) -> float | None:
    """The value of a constant that is no NaN; None for anything else."""
    if isinstance(node, tirx.Broadcast):
        node = node.value
    return node.value if isinstance(node, tirx.FloatImm) and node.value == node.value else None


def _element(node: tirx.PrimExpr) -> str:
    """The type of one lane."""
    return str(node.ty.dtype).partition("x")[0]


def _like(node: tirx.PrimExpr, value: float) -> tirx.PrimExpr:
    """A constant in every lane of the node's type."""
    number, lanes = tirx.const(value, _element(node)), node.ty.dtype.lanes
    return number if lanes == 1 else tirx.Broadcast(number, lanes)
