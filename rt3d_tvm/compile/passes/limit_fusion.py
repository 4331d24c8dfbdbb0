"""LimitFusion: what would make a fused expression too large is computed by a function of its own.

Before::

    lv = R.call_tir(cls.sigmoid, (x,))            # op_pattern of all: elementwise
    lv1 = R.call_tir(cls.multiply, (x, lv))
    lv2 = R.call_tir(cls.sigmoid, (lv1,))
    lv3 = R.call_tir(cls.multiply, (lv1, lv2))    # reads lv1 twice, and so on

After::

    ...
    lv3 = R.call_tir(cls.multiply1, (lv1, lv2))   # op_pattern: opaque, which FuseOps leaves alone

FuseOps makes one function of a chain, and the schedule inlines a value at each place that reads it.
A value that is read twice doubles the expression, the next one doubles it again: twenty of them
make a million terms. The pass predicts the size of the expression and ends the chain in time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx

from rt3d_tvm.compile.ir.dataflow import bindings, rewritten, static_shape, users
from rt3d_tvm.compile.ir.packed_call import called

# Nodes of one inlined expression: a thousand compile in a tenth of a second, and a fused activation
# has some hundred. An unrolled pool that reads a concat has thousands: what one function and those
# it reads come to is always fused, and with further ones it may become so many times larger.
MAX_NODES = 1000
MAX_GROWTH = 4
# A call such as tanh becomes some thirty instructions.
CALL_NODES = 16
# Functions that become an expression with so many copies of the argument. Those of
# schedules/transcendentals.py bind it to three names, and the vectoriser visits each binding twice.
ARGUMENT_COPIES = {
    **{f"tirx.{name}": 8 for name in ("exp", "sigmoid", "tanh", "erf")},
    "tirx.isfinite": 3,
    "tirx.tan": 2,
    "tirx.atanh": 2,
}
# A maximum or minimum that keeps a NaN (schedules/extrema.py) binds its operand to a name; TVM's
# simplifier then takes at least so many times as long for each that lies in another: eight, in
# four clips, took 4 s.
EXTREMUM_COPIES = 2
# The attribute in which AnnotateTIROpPattern says how a function may be fused, and its values.
PATTERN_ATTRIBUTE = "op_pattern"
_REDUCTION, _OPAQUE = 3, 8


@tvm.transform.module_pass(opt_level=0, name="LimitFusion")
class LimitFusion:
    """Keep FuseOps from joining what would be inlined into more than ``MAX_NODES``."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with copies of some functions that are not to be fused."""
        return rewritten(mod, _Rewriter(mod))


@dataclass(frozen=True, kw_only=True)
class Size:
    """The expression that takes the place of a value where it is read.

    nodes: all of them. axes: how many of them are an axis of the value, each of which becomes the
    index that the reader reads it at.
    """

    nodes: int
    axes: int

    @classmethod
    def stored(cls, rank: int) -> Size:
        """A load of what lies in memory."""
        return cls(nodes=1 + rank, axes=rank)


def inlined_sizes(function: tirx.PrimFunc, arguments: list[Size]) -> tuple[int, list[Size]]:
    """The nodes of a function's largest expression with its inputs inlined; the sizes of results.

    arguments: the sizes of the inputs. Within the function, too, what one block writes whole is
    inlined, but for reductions.
    """
    sizes = dict(zip(function.params, arguments, strict=False))
    largest, written = 0, set()

    def compute(block: s_tir.SBlock, _visitor) -> None:
        axes = {axis.var for axis in block.iter_vars}

        def store(statement: tirx.BufferStore, _visitor) -> None:
            nonlocal largest
            buffer, size = statement.buffer, _expression(statement.value, axes, sizes)
            largest = max(largest, size.nodes)
            if block.body.same_as(statement) and block.init is None and buffer not in written:
                sizes[buffer] = size
            else:
                sizes.pop(buffer, None)
            written.add(buffer)

        tvm_ffi.structural_visit(block.body, [(s_tir.SBlock, compute), (tirx.BufferStore, store)])

    tvm_ffi.structural_visit(function.body, [(s_tir.SBlock, compute)])
    results = function.params[len(arguments) :]
    return largest, [sizes.get(result, Size.stored(len(result.ty.shape))) for result in results]


def _expression(value: tvm.ir.Expr, axes: set[tirx.Var], sizes: dict[tirx.Var, Size]) -> Size:
    """The size of an expression over the axes of its block, with what it loads inlined."""
    nodes = uses = 0

    def count(expr: tvm.ir.Expr, visitor) -> None:
        nonlocal nodes
        nodes += 1
        visitor.default_visit(expr)

    def call(expr: tvm.ir.Call, _visitor) -> None:
        nonlocal nodes, uses
        copies = ARGUMENT_COPIES.get(getattr(expr.op, "name", ""), 1)
        parts = [_expression(argument, axes, sizes) for argument in expr.args]
        nodes += CALL_NODES + copies * sum(part.nodes for part in parts)
        uses += copies * sum(part.axes for part in parts)

    def extremum(expr: tirx.Max | tirx.Min, _visitor) -> None:
        nonlocal nodes, uses
        parts = [_expression(operand, axes, sizes) for operand in _operands(expr, type(expr))]
        nodes += 1 + EXTREMUM_COPIES * sum(part.nodes for part in parts)
        uses += EXTREMUM_COPIES * sum(part.axes for part in parts)

    def use(var: tirx.Var, _visitor) -> None:
        nonlocal nodes, uses
        nodes += 1
        uses += var in axes

    def load(expr: tvm.ir.TensorLoad, _visitor) -> None:
        nonlocal nodes, uses
        of = sizes.get(expr.source, Size.stored(len(expr.indices)))
        indices = [_expression(index, axes, sizes) for index in expr.indices]
        nodes += of.nodes + of.axes * (max((index.nodes for index in indices), default=1) - 1)
        uses += of.axes * max((index.axes for index in indices), default=0)

    visits = [(tvm.ir.TensorLoad, load), (tvm.ir.Call, call), (tirx.Var, use)]
    visits += [(tirx.Max, extremum), (tirx.Min, extremum)]
    tvm_ffi.structural_visit(value, [*visits, (tvm.ir.Expr, count)])
    return Size(nodes=nodes, axes=uses)


def _operands(expr: tvm.ir.Expr, kind: type[tirx.Max] | type[tirx.Min]) -> list[tvm.ir.Expr]:
    """What an extremum is of; one of another of its kind is one of all of their operands."""
    if not isinstance(expr, kind):
        return [expr]
    return [*_operands(expr.a, kind), *_operands(expr.b, kind)]


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Calls a copy that is not fused where a call would make its expression too large."""

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.mod = mod
        self.apart: set[relax.Var] = set()

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.apart = _kept_apart(self.mod, function)
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """The same call, of a function that is opaque to FuseOps."""
        if binding.var in self.apart:
            call = binding.value
            opaque = called(self.mod, call).with_attr(PATTERN_ATTRIBUTE, _OPAQUE)
            function = self.builder_.add_func(opaque, call.args[0].name_hint)
            args = [function, *call.args[1:]]
            binding = relax.VarBinding(
                binding.var, relax.Call(call.op, args, call.attrs, call.ty_args)
            )
        super().visit_var_binding_(binding)


@dataclass(frozen=True, kw_only=True)
class _Inlined:
    """A value that is inlined where it is read: its results' sizes, with all before it inlined too.

    alone: the sizes with its own inputs stored. pair: the nodes of the largest function among those
    inlined, each with the functions that it reads.
    """

    results: list[Size]
    alone: list[Size]
    pair: int


def _is_fused(mod: tvm.IRModule, value: relax.Expr) -> bool:
    """Whether FuseOps joins what a binding computes with what it reads, and takes a tuple apart."""
    if isinstance(value, relax.TupleGetItem):
        return True
    func = called(mod, value)
    return func is not None and int(func.attrs.get(PATTERN_ATTRIBUTE, _OPAQUE)) <= _REDUCTION


def _kept_apart(mod: tvm.IRModule, function: relax.Function) -> set[relax.Var]:
    """The values that are to be computed by a function of their own, so that all others fuse."""
    known: dict[relax.Var, _Inlined] = {}
    readers, apart = users(function), set()
    for binding in bindings(function):
        var, value = binding.var, binding.value
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in known:
            whole, i = known[value.tuple_value], value.index
            known[var] = replace(whole, results=[whole.results[i]], alone=[whole.alone[i]])
        func = called(mod, value)
        if func is None or not _is_fused(mod, value):
            continue
        reads = value.args[1].fields
        stored = [Size.stored(len(static_shape(read) or ())) for read in reads]
        inlined = [known.get(read) for read in reads]
        _, alone = inlined_sizes(func, stored)
        pair, _ = inlined_sizes(
            func, [of.alone[0] if of else size for of, size in zip(inlined, stored, strict=True)]
        )
        nodes, results = inlined_sizes(
            func, [of.results[0] if of else size for of, size in zip(inlined, stored, strict=True)]
        )
        pair = max(pair, *(of.pair for of in inlined if of), 0)
        if nodes > max(MAX_NODES, MAX_GROWTH * pair):
            apart.add(var)
        elif all(reader and _is_fused(mod, reader.value) for reader in readers.get(var, [])):
            known[var] = _Inlined(results=results, alone=alone, pair=pair)
    return apart
