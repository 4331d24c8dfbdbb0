"""Relax operators on single values: what of topi_sparse.elementwise each is, and chains of them."""

from __future__ import annotations

import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import constant, dtype_of, static_shape
from topi_sparse.elementwise import Step, is_finite_at_zero

# The operators whose operands are all tensors or constant scalars -> the function's name.
_SAME_OPERANDS = {
    **{
        f"relax.{name}": name
        for name in (
            *("add", "subtract", "multiply", "divide", "maximum", "minimum"),
            *("negative", "abs", "exp", "sqrt", "sigmoid", "tanh", "erf"),
        )
    },
    "relax.nn.relu": "relu",
    "relax.nn.silu": "silu",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
}
# All operators that `elementwise` may know.
ELEMENTWISE = (*_SAME_OPERANDS, "relax.nn.leakyrelu", "relax.clip")
# Steps of one kernel: GELU written out by tanh takes nine.
MAX_STEPS = 16
# A value that is read twice is written out twice in the kernel's code. Two SiLUs in a row are 16
# copies of the sum; three were 64, with which LLVM did not end within a minute.
MAX_COPIES = 32
# How often a function has its operand written out, where that is not once.
_COPIES = {
    **dict.fromkeys(("maximum", "minimum", "relu"), 2),
    **dict.fromkeys(("exp", "sigmoid", "tanh", "erf"), 3),
    "silu": 4,
    "gelu": 4,
    "leaky_relu": 4,
    "gelu_tanh": 13,
}
FLOATS = ("float32", "float16")


def elementwise(call: relax.Expr) -> list[tuple[str, list[relax.Expr | float | None]]] | None:
    """What an operator does to single values, or None where it is no such operator.

    One function of the table after the other; each with its operands: tensors and numbers, None for
    what the one before has given.
    """
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return None
    if call.op.name in _SAME_OPERANDS:
        return [(_SAME_OPERANDS[call.op.name], [_operand(arg) for arg in call.args])]
    if call.op.name == "relax.nn.leakyrelu":
        return [("leaky_relu", [call.args[0], float(call.attrs.alpha)])]
    if call.op.name == "relax.clip":
        bounds = [_number(arg) for arg in call.args[1:]]
        if None not in bounds:
            return [("maximum", [call.args[0], bounds[0]]), ("minimum", [None, bounds[1]])]
    return None


def elementwise_tensors(call: relax.Call) -> list[relax.Expr]:
    """The tensors that an elementwise operator reads, each once, without constant scalars."""
    found: list[relax.Expr] = []
    for _, operands in elementwise(call) or []:
        for each in operands:
            if isinstance(each, relax.Expr) and not any(each.same_as(other) for other in found):
                found.append(each)
    return found


def steps_behind(
    var: relax.Var,
    reads: dict[relax.Var, list[relax.VarBinding | None]],
    claimed: set[relax.Var],
) -> tuple[tuple[Step, ...], tuple[relax.VarBinding, ...]]:
    """The longest program on one value that ends in one value, and the bindings it stands for.

    Nothing but the program may read what it reads and makes, its result apart; all is of one shape
    and type, and what is added or multiplied by is a scalar.
    """
    made: dict[relax.Var, tuple[relax.VarBinding, set[relax.Var]]] = {}
    copies = {var: 1}
    pending = [var]
    best: set[relax.Var] = set()
    while pending and len(made) < MAX_STEPS:
        for reader in reads.get(pending.pop(0), []):
            if reader is None or reader.var in made or reader.var in claimed:
                continue
            if not _is_step(reader.value, var, made):
                continue
            copies[reader.var] = _copies(reader.value, copies)
            if copies[reader.var] > MAX_COPIES:
                continue
            behind = {reader.var}.union(
                *(made[each][1] for each in elementwise_tensors(reader.value) if each in made)
            )
            made[reader.var] = reader, behind
            pending.append(reader.var)
            if len(behind) > len(best) and _is_closed(behind, var, reader.var, reads):
                best = behind
    members = [binding for each, (binding, _) in made.items() if each in best]
    return _program(var, members), tuple(members)


def _is_step(call: relax.Expr, var: relax.Var, made: dict) -> bool:
    found = elementwise(call)
    if found is None or dtype_of(var) not in FLOATS:
        return False
    of_one_type = (static_shape(call), dtype_of(call)) == (static_shape(var), dtype_of(var))
    values = all(each in made or each.same_as(var) for each in elementwise_tensors(call))
    return of_one_type and values and all(map(_is_finite_at_zero, found))


def _is_finite_at_zero(function: tuple[str, list[relax.Expr | float | None]]) -> bool:
    name, operands = function
    return is_finite_at_zero(name, [each if isinstance(each, float) else None for each in operands])


def _copies(call: relax.Expr, known: dict[relax.Var, int]) -> int:
    """How often the first value of a program stands in what an operator makes of ``known`` ones."""
    count = 0
    for name, operands in elementwise(call) or []:
        read = (
            count if each is None else 0 if isinstance(each, float) else known[each]
            for each in operands
        )
        count = _COPIES.get(name, 1) * sum(read)
    return count


def _is_closed(members: set, var: relax.Var, last: relax.Var, reads: dict) -> bool:
    """Whether only ``members`` read the value and what they make, but for the last one."""
    inside = [var, *(each for each in members if not each.same_as(last))]
    return all(
        reader is not None and reader.var in members
        for each in inside
        for reader in reads.get(each, [])
    )


def _program(var: relax.Var, members: list[relax.VarBinding]) -> tuple[Step, ...]:
    number_of = {var: 0}
    steps: list[Step] = []
    for binding in members:
        for name, operands in elementwise(binding.value) or []:
            taken = tuple(
                each if isinstance(each, float) else len(steps) if each is None else number_of[each]
                for each in operands
            )
            steps.append((name, taken))
        number_of[binding.var] = len(steps)
    return tuple(steps)


def _operand(arg: relax.Expr) -> relax.Expr | float:
    number = _number(arg)
    return arg if number is None else number


def _number(arg: relax.Expr) -> float | None:
    """A constant scalar, or None for anything else."""
    value = constant(arg)
    if value is not None:
        return float(value) if value.ndim == 0 and value.dtype.kind in "fiu" else None
    number = getattr(arg, "value", None)
    return float(number) if isinstance(number, int | float) else None
