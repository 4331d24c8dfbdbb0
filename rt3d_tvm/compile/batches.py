"""Several batches in one artifact: the modules lowered for one batch each -> one module.

Before, a module for a batch of 1 and one for a batch of 4::

    def main(clip: (1, 3, ...), w0, w1): kgs_conv3d(clip, w0, w1, ...) ...
    def main(clip: (4, 3, ...), w0, w1): kgs_conv3d(clip, w0, w1, ...) ...

After, where only the first weights are of the same values::

    def main(clip: (1, 3, ...), w0, w1, _): kgs_conv3d(clip, w0, w1, ...) ...
    def main_4(clip: (4, 3, ...), w0, _, w1): kgs_conv3d1(clip, w0, w1, ...) ...

A kernel is made for sizes that are known: its register tile and its schedule follow from them. So
each batch has kernels of its own, and weights and kernels that are equal are there once. Every
function takes all weights: whoever runs one hands it the whole file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchModule:
    """A module on planned storages for one batch; ``main`` takes its inputs, then its weights."""

    batch: int
    inputs: int
    mod: tvm.IRModule
    weights: Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class MergedBatches:
    """One module for all batches, the first one's function as ``main``, and all its weights.

    functions: of each batch its function's name. kernels: of each batch the names that its kernels
    got, by those they had.
    """

    mod: tvm.IRModule
    weights: list[np.ndarray]
    functions: list[str]
    kernels: list[dict[str, str]]


def merge_batches(parts: Sequence[BatchModule]) -> MergedBatches:
    """One module that serves every batch."""
    weights: list[np.ndarray] = []
    place_of: dict[tuple, int] = {}
    places = [[_place(value, weights, place_of) for value in part.weights] for part in parts]
    builder = relax.BlockBuilder(parts[0].mod)
    main = parts[0].mod.get_global_var("main")
    builder.update_func(main, _taking_all(parts[0], places[0], weights))
    known = {_key(f): v for v, f in _kernels(parts[0].mod) if isinstance(f, tirx.PrimFunc)}
    functions, names = ["main"], [{v.name_hint: v.name_hint for v, _ in _kernels(parts[0].mod)}]
    for part, at in zip(parts[1:], places[1:], strict=True):
        moved = {}
        for variable, function in _kernels(part.mod):
            key = _key(function)
            if key not in known:
                known[key] = builder.add_func(function, variable.name_hint)
            moved[variable] = known[key]
        called = _Renamer(moved).visit_expr(_taking_all(part, at, weights))
        functions.append(f"main_{part.batch}")
        builder.add_func(called.with_attr("global_symbol", functions[-1]), functions[-1])
        names.append({old.name_hint: new.name_hint for old, new in moved.items()})
    merged = builder.get().with_attrs(dict(parts[0].mod.attrs or {}))
    return MergedBatches(mod=merged, weights=weights, functions=functions, kernels=names)


def _place(value: np.ndarray, weights: list[np.ndarray], place_of: dict[tuple, int]) -> int:
    """Where a weight is among all of them; added where none is equal to it."""
    data = np.ascontiguousarray(value)
    key = (data.dtype.str, value.shape, hashlib.sha256(data.data).digest())
    if key not in place_of:
        place_of[key] = len(weights)
        weights.append(value)
    return place_of[key]


def _kernels(mod: tvm.IRModule) -> list[tuple[tvm.ir.GlobalVar, tirx.PrimFunc]]:
    return [(v, f) for v, f in mod.functions_items() if v.name_hint != "main"]


def _key(function: tirx.PrimFunc) -> tvm_ffi.StructuralKey:
    """What equal kernels have in common, whatever they are called."""
    return tvm_ffi.StructuralKey(function.without_attr("global_symbol"))


def _taking_all(
    part: BatchModule, places: Sequence[int], weights: Sequence[np.ndarray]
) -> relax.Function:
    """A batch's ``main`` that takes all weights, though it reads only its own."""
    main = part.mod["main"]
    rest = [
        relax.Var(f"unread{number}", relax.TensorType(value.shape, str(value.dtype)))
        for number, value in enumerate(weights)
    ]
    for number, param in zip(places, main.params[part.inputs :], strict=True):
        rest[number] = param
    params = [*main.params[: part.inputs], *rest]
    return relax.Function(params, main.body, main.ret_ty, is_pure=main.is_pure, attrs=main.attrs)


@relax.expr_functor.mutator
class _Renamer(relax.PyExprMutator):
    """Calls kernels by the names that they have in another module."""

    def __init__(self, moved: dict[tvm.ir.GlobalVar, tvm.ir.GlobalVar]) -> None:
        super().__init__()
        self.moved = moved

    def visit_global_var_(self, variable: tvm.ir.GlobalVar) -> tvm.ir.GlobalVar:
        return self.moved[variable]
