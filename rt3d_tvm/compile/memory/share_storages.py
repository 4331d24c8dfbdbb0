"""ShareStorages: the tensors of a planned function, in as little memory as whole storages allow.

Before, as TVM's StaticPlanBlockMemory leaves it::

    storage = R.memory.alloc_storage(R.shape([400]), ...)
    a = R.memory.alloc_tensor(storage, 0, R.shape([100]), ...)
    cls.f(x, a)
    storage1 = R.memory.alloc_storage(R.shape([800]), ...)
    b = R.memory.alloc_tensor(storage1, 0, R.shape([200]), ...)
    cls.g(a, b)
    c = R.memory.alloc_tensor(storage, 0, R.shape([100]), ...)

After: the same calls, each tensor in a storage that is free while it lives, but fewer bytes of
storages where there is a way. TVM's planner takes the tensors in the order of the calls, so that
early small ones get storages of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import bindings, is_op, rewritten

ALLOC_STORAGE, ALLOC_TENSOR = "relax.memory.alloc_storage", "relax.memory.alloc_tensor"


@tvm.transform.module_pass(opt_level=0, name="ShareStorages")
class ShareStorages:
    """Give the tensors of every function storages that others have before or after them."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with other storages."""
        return rewritten(mod, _Rewriter(mod))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tensor:
    """A planned tensor: the bindings between which it lives, and what of memory it asks for."""

    var: relax.Var
    bytes: int
    born: int
    dies: int
    storage: relax.Call

    def meets(self, other: _Tensor) -> bool:
        """Whether both live at one time."""
        return self.born <= other.dies and other.born <= self.dies

    @property
    def kind(self) -> tuple[str, ...]:
        """Device, scope and type of its storage: it may share one with its like."""
        return tuple(str(arg) for arg in self.storage.args[1:])


def planned_tensors(function: relax.Function) -> list[_Tensor]:
    """The tensors of a planned function that lie in storages."""
    listed = bindings(function)
    storages: dict[relax.Var, relax.Call] = {}
    born: dict[relax.Var, int] = {}
    dies: dict[relax.Var, int] = {}
    # The tensors that a variable may stand for: itself, or what its value was made of.
    means: dict[relax.Var, set[relax.Var]] = {}

    def used(expr: relax.Expr, at: int) -> set[relax.Var]:
        found: set[relax.Var] = set()

        def visit(node: relax.Expr) -> None:
            if isinstance(node, relax.Var):
                found.update(means.get(node, ()))

        relax.analysis.post_order_visit(expr, visit)
        dies.update(dict.fromkeys(found, at))
        return found

    for at, binding in enumerate(listed):
        var, value = binding.var, binding.value
        if is_op(value, ALLOC_STORAGE):
            storages[var] = value
        elif is_op(value, ALLOC_TENSOR):
            born[var] = dies[var] = at
            means[var] = {var}
        else:
            means[var] = used(value, at)
    used(function.body.body, len(listed))
    calls = {binding.var: binding.value for binding in listed}
    return [
        _Tensor(
            var=var,
            bytes=_bytes(calls[var]),
            born=at,
            dies=dies[var],
            storage=storages[calls[var].args[0]],
        )
        for var, at in born.items()
    ]


def _bytes(call: relax.Call) -> int:
    shape, dtype = call.args[2], call.ty.dtype.dtype
    return math.prod(int(n) for n in shape.values) * np.dtype(str(dtype)).itemsize


def shared(tensors: list[_Tensor]) -> list[list[_Tensor]]:
    """The tensors in as many lists as there are storages, the largest of each list first.

    Of three plans the one of fewest bytes: as they lie now, or the largest tensor first, each in
    the smallest or the largest storage that is free while it lives.
    """
    ordered = sorted(tensors, key=lambda tensor: -tensor.bytes)
    now: dict[relax.Call, list[_Tensor]] = {}
    for tensor in ordered:
        now.setdefault(tensor.storage, []).append(tensor)
    plans = [list(now.values()), _greedy(ordered, min), _greedy(ordered, max)]
    return min(plans, key=lambda plan: sum(storage[0].bytes for storage in plan))


def _greedy(ordered: list[_Tensor], choose: Callable) -> list[list[_Tensor]]:
    found: list[list[_Tensor]] = []
    for tensor in ordered:
        free = [
            others
            for others in found
            if others[0].kind == tensor.kind and not any(map(tensor.meets, others))
        ]
        if free:
            choose(free, key=lambda others: others[0].bytes).append(tensor)
        else:
            found.append([tensor])
    return found


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Drops the storages there are, and emits one for each list before its first tensor."""

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.largest: dict[relax.Var, _Tensor] = {}
        self.storages: dict[relax.Var, relax.Var] = {}

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.largest = {
            tensor.var: tensors[0]
            for tensors in shared(planned_tensors(function))
            for tensor in tensors
        }
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Other storages, and the tensors in them."""
        if is_op(binding.value, ALLOC_STORAGE):
            return
        if is_op(binding.value, ALLOC_TENSOR):
            largest, call = self.largest[binding.var], binding.value
            if largest.var not in self.storages:
                old = largest.storage
                size = relax.ShapeExpr([largest.bytes])
                storage = relax.Call(old.op, [size, *old.args[1:]], old.attrs, old.ty_args)
                self.storages[largest.var] = self.builder_.emit(storage, "storage")
            args = [self.storages[largest.var], *call.args[1:]]
            moved = relax.Call(call.op, args, call.attrs, call.ty_args)
            self.set_var_remap(binding.var, self.builder_.emit(moved, "tensor"))
            return
        super().visit_var_binding_(binding)
