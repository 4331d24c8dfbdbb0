"""Relax after memory planning -> the list of its calls: all that the VM would do for the model."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx

from rt3d_tvm.artifact.calls import Call, CallList, PlacedTensor
from rt3d_tvm.artifact.format import ALIGNMENT
from rt3d_tvm.compile.ir.dataflow import bindings, dtype_of, is_op, known_shape
from rt3d_tvm.compile.memory.share_storages import ALLOC_STORAGE, ALLOC_TENSOR


def list_calls(mod: tvm.IRModule, *, inputs: int) -> CallList:
    """The calls of a module whose ``main`` takes so many inputs, then its weights.

    mod: lowered, with its constants lifted and its memory planned. ValueError, which names it, for
    what is neither a call of a kernel nor a place or a view of a tensor.
    """
    kernels = {
        name.name_hint: function
        for name, function in mod.functions_items()
        if isinstance(function, tirx.PrimFunc)
    }
    main = _Main(mod["main"], kernels, inputs)
    used = {call.function for call in main.calls}
    return CallList(
        storages=tuple(main.storages),
        tensors=tuple(main.placed()),
        calls=tuple(main.calls),
        scratch=max((_scratch(kernels[name]) for name in used), default=0),
    )


class _Main:
    """Walks the bindings of a planned ``main``: which tensor lies where, what is called."""

    def __init__(
        self, main: relax.Function, kernels: dict[str, tirx.PrimFunc], inputs: int
    ) -> None:
        self.kernels = kernels
        self.storages: list[int] = []
        self.tensors: list[PlacedTensor] = []
        self.calls: list[Call] = []
        # Of a variable: the index of its tensor, and of a storage's its own.
        self.index: dict[relax.Var, int] = {}
        self.tuples: dict[relax.Var, list[relax.Expr]] = {}
        self.results = 0
        for number, param in enumerate(main.params):
            weight = number >= inputs
            self.add(param, "weight" if weight else "input", number - inputs * weight)
        for binding in bindings(main):
            self.visit(binding.var, binding.value)
        result = main.body.body
        fields = result.fields if isinstance(result, relax.Tuple) else self.fields(result)
        self.outputs = [self.tensors[self.index[field]] for field in fields]

    def add(self, var: relax.Var, place: str, index: int) -> None:
        """A further tensor, of the variable's shape and type."""
        tensor = PlacedTensor(place=place, index=index, shape=known_shape(var), dtype=dtype_of(var))
        self.index[var] = len(self.tensors)
        self.tensors.append(tensor)

    def visit(self, var: relax.Var, value: relax.Expr) -> None:
        """Place a tensor, call a kernel, or give a tensor another name or shape."""
        if isinstance(value, relax.Tuple):  # of results, which is no tensor itself
            self.tuples[var] = list(value.fields)
        elif isinstance(value, relax.Var):
            self.rename(var, value)
        elif isinstance(value, relax.TupleGetItem):
            self.rename(var, self.tuples[value.tuple_value][value.index])
        elif is_op(value, ALLOC_STORAGE):
            self.index[var] = len(self.storages)
            self.storages.append(int(value.args[0].values[0]))
        elif is_op(value, ALLOC_TENSOR):
            if int(value.args[1].value) != 0:
                raise ValueError(f"{var.name} starts inside its storage")
            self.add(var, "storage", self.index[value.args[0]])
        elif is_op(value, "relax.builtin.alloc_tensor"):
            self.add(var, "output", self.results)
            self.results += 1
        elif is_op(value, "relax.reshape"):
            viewed = self.tensors[self.index[value.args[0]]]
            self.add(var, viewed.place, viewed.index)
        elif _is_kernel(value, self.kernels):
            arguments = [self.index[arg] for arg in value.args]
            self.calls.append(Call(function=value.op.name_hint, arguments=tuple(arguments)))
        else:
            called = getattr(value, "op", value)
            raise ValueError(f"{var.name}: {called} is neither a kernel nor a view")

    def rename(self, var: relax.Var, value: relax.Expr) -> None:
        """A further name of a tensor, or of a tuple of some."""
        known: dict = self.tuples if value in self.tuples else self.index
        known[var] = known[value]

    def fields(self, result: relax.Var) -> list[relax.Expr]:
        """The tensors of a model's result."""
        return self.tuples.get(result, [result])

    def placed(self) -> list[PlacedTensor]:
        """The tensors, those made for results where they are returned: a buffer of the caller's."""
        order = [tensor.index for tensor in self.outputs if tensor.place == "output"]
        if sorted(order) != list(range(self.results)) or len(order) != len(self.outputs):
            raise ValueError("a result of the model is also something else of it")
        return [
            replace(tensor, index=order.index(tensor.index)) if tensor.place == "output" else tensor
            for tensor in self.tensors
        ]


def _is_kernel(value: relax.Expr, kernels: dict[str, tirx.PrimFunc]) -> bool:
    return (
        isinstance(value, relax.Call)
        and isinstance(value.op, tvm.ir.GlobalVar)
        and value.op.name_hint in kernels
    )


def _scratch(function: tirx.PrimFunc) -> int:
    """Bytes of all buffers that a kernel allocates: lowering shares and shrinks them only.

    Each with the room of one alignment more, where the runtime keeps what it needs to free it.
    """
    sizes = []

    def count(buffer: tirx.Buffer) -> None:
        extents = [int(extent) for extent in buffer.shape]
        nbytes = prod(extents) * np.dtype(str(buffer.dtype.with_lanes(1))).itemsize
        nbytes *= buffer.dtype.lanes
        sizes.append(-(-nbytes // ALIGNMENT) * ALIGNMENT + ALIGNMENT)

    def block(node: s_tir.SBlock, visitor) -> None:
        for buffer in node.alloc_buffers:
            count(buffer)
        visitor.default_visit(node)

    def allocate(node: tirx.AllocBuffer, visitor) -> None:
        count(node.buffer)
        visitor.default_visit(node)

    visits = [(s_tir.SBlock, block), (tirx.AllocBuffer, allocate)]
    tvm_ffi.structural_visit(function.body, visits)
    return sum(sizes)
