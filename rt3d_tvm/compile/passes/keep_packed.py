"""KeepPacked: one packed layout from the first convolution to the last.

Before::

    lv = R.call_tir(cls.kgs_conv3d, ...)
    lv1 = R.call_tir(cls.unpack, (lv,))
    lv2 = R.nn.max_pool3d(lv1, ...)
    lv3 = R.call_tir(cls.pack, (lv2,))
    lv4 = R.call_tir(cls.kgs_conv3d1, (lv3, ...))

After::

    lv = R.call_tir(cls.kgs_conv3d, ...)
    lv1 = R.call_tir(cls.max_pool3d, (lv,))   # packed, with the halo that kgs_conv3d1 reads
    lv2 = R.call_tir(cls.kgs_conv3d1, (lv1, ...))

Pools, concats, means and elementwise operators between packed values become packed themselves; each
value is stored with the largest halo that one of its readers needs. Kernels are made anew from
their definitions for the layouts that this gives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import tvm
from tvm import relax
from tvm.target import Target

from rt3d_tvm.compile.backends import backend_of
from rt3d_tvm.compile.ir.dataflow import (
    bindings,
    constant,
    dtype_of,
    known_shape,
    rewritten,
    static_shape,
    users,
)
from rt3d_tvm.compile.ir.elementwise_calls import FLOATS
from rt3d_tvm.compile.ir.packed_call import (
    PACKED_KERNELS,
    PackedKernel,
    called,
    emit_call,
    emit_unpack,
    is_view,
    layout_change,
    packed_kernel,
)
from rt3d_tvm.compile.ir.packed_operators import (
    OPERATORS,
    Maker,
    is_read_plain,
    packed_constant,
    tensors_of,
    why_not,
)
from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.layout import PackedLayout

# The module attributes under which the pass writes how many layout changes it has left, and, as
# JSON, which operators on packed values made it unpack them, and why.
CHANGES_ATTRIBUTE = "layout_changes"
UNPACKED_ATTRIBUTE = "not_packed"


@tvm.transform.module_pass(opt_level=0, name="KeepPacked")
class KeepPacked:
    """Take out the layout changes between kernels that KGSConv3d has put in.

    target: what the kernels are for. An operator becomes the kernel that its backend has for it;
    else, and without a target, a loop nest.
    """

    def __init__(self, target: Target | None = None) -> None:
        self.makers = {name: operator.make for name, operator in OPERATORS.items()}
        if target is not None:
            self.makers |= backend_of(target).operators(target)

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with packed values kept packed wherever every operator between allows it."""
        # A value that several convolutions read has been packed for each.
        mod = relax.transform.EliminateCommonSubexpr()(mod)
        rewriter = _Rewriter(mod, self.makers)
        mod = relax.transform.DeadCodeElimination()(rewritten(mod, rewriter))
        mod = relax.transform.DeadCodeElimination()(rewritten(mod, _Views(mod)))
        mod = mod.with_attr(UNPACKED_ATTRIBUTE, json.dumps(rewriter.not_packed))
        return mod.with_attr(CHANGES_ATTRIBUTE, _layout_changes(mod))


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Keeps, for each plain variable that has one, its packed twin, and makes it plain on demand.

    layout_of    the layout in which a variable of the old function, or its twin, is stored now
    twin         the new variable that holds the value, packed
    only_packed  those that have no plain form yet
    makers       operator -> what makes its packed PrimFunc
    """

    def __init__(self, mod: tvm.IRModule, makers: Mapping[str, Maker]) -> None:
        super().__init__(mod)
        self.mod, self.makers = mod, makers
        self.not_packed: list[str] = []

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.layout_of, reasons = _layouts(self.mod, function)
        self.not_packed += reasons
        self.twin: dict[relax.Var, relax.Var] = {}
        self.only_packed: set[relax.Var] = set()
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Packed where the analysis found a layout; else as it was, on plain values."""
        var, call = binding.var, binding.value
        if var not in self.layout_of:
            for read in relax.analysis.free_vars(call):
                self.make_plain(read)
            super().visit_var_binding_(binding)
            return
        change, func = layout_change(self.mod, call), called(self.mod, call)
        kernel = None if func is None else packed_kernel(func)
        if change is not None:  # pack and unpack between packed values: nothing is left to do
            self.twin[var] = self.twin[call.args[1].fields[0]]
            if change["kind"] == "unpack":
                self.only_packed.add(var)
        elif kernel is not None:
            self.twin[var] = self.emit_kernel(*kernel, call, self.layout_of[var])
            self.set_var_remap(var, self.twin[var])  # a view of it may be all that is read
        else:
            self.twin[var] = self.emit_operator(call, self.layout_of[var])
            self.only_packed.add(var)

    def emit_operator(self, call: relax.Call, y: PackedLayout) -> relax.Var:
        """An operator on the twins of its tensors; a constant one is packed here."""
        tensors = tensors_of(call)
        args = {tensor: self.twin[tensor] for tensor in tensors if tensor in self.twin}
        dtype = dtype_of(next(iter(args.values())))
        layouts, shapes, plain = [], [], PackedLayout(c_block=y.c_block)
        for tensor in tensors:
            value = constant(tensor)
            if value is None and tensor not in self.layout_of:  # a single channel, in blocks of one
                layouts.append(PackedLayout(c_block=1))
                shapes.append(known_shape(tensor))
                view = relax.op.reshape(self.visit_expr(tensor), (*shapes[-1], 1))
                args[tensor] = self.builder_.emit(view)
                continue
            if value is None:
                layouts.append(self.layout_of[tensor])
                shapes.append(static_shape(tensor))
                continue
            shape = (1,) * (5 - value.ndim) + value.shape
            layouts.append(plain)
            shapes.append((shape[0], known_shape(call)[1], *shape[2:]))
            args[tensor] = relax.const(packed_constant(call, value, plain, dtype))
        func = self.makers[call.op.name](call, shapes, layouts, y, dtype)
        operator = call.op.name.rsplit(".", 1)[-1]
        return emit_call(self.builder_, operator, func, [args[tensor] for tensor in tensors])

    def emit_kernel(
        self, name: str, definition: PackedKernel, call: relax.Call, y: PackedLayout
    ) -> relax.Var:
        """The same kernel for the layouts in which its tensors are stored now."""
        args = list(call.args[1].fields)
        changed = replace(definition, y=y)
        if args[0] in self.layout_of:
            changed = replace(changed, x=self.layout_of[args[0]])
        if args[-1] in self.layout_of and len(args) > 1:
            changed = replace(changed, residual=self.layout_of[args[-1]])
        if isinstance(definition, KGSConv3d):
            offsets, pointers = (constant(arg) for arg in args[2:4])
            args[2] = relax.const(changed.offsets(definition.columns(offsets, pointers)))
        tensors = [self.stored(arg) if isinstance(arg, relax.Var) else arg for arg in args]
        return emit_call(self.builder_, name, PACKED_KERNELS[name][1](changed), tensors)

    def stored(self, var: relax.Var) -> relax.Expr:
        """The new variable that holds a packed value."""
        return self.twin[var] if var in self.twin else self.visit_expr(var)

    def make_plain(self, var: relax.Var) -> None:
        """Emit the plain form of a value that has only its packed twin so far."""
        if var in self.only_packed:
            data, layout = static_shape(var), self.layout_of[var]
            plain = emit_unpack(self.builder_, self.twin[var], data, layout, dtype_of(var))
            self.set_var_remap(var, plain)
            self.only_packed.remove(var)


@relax.expr_functor.mutator
class _Views(relax.PyExprMutator):
    """Reshapes in place of the layout changes that change no byte."""

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.mod = mod

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """The same call, or a reshape."""
        if not is_view(self.mod, call):
            return super().visit_call_(call)
        return relax.op.reshape(self.visit_expr(call.args[1].fields[0]), static_shape(call))


def _layouts(
    mod: tvm.IRModule, function: relax.Function
) -> tuple[dict[relax.Var, PackedLayout], list[str]]:
    """The variables that are to be packed, and how; and why an operator on packed ones is not.

    In order, every value that comes out of a kernel or of an operator on packed values; then, in
    reverse, the halo that the readers of each ask for.
    """
    layouts: dict[relax.Var, PackedLayout] = {}
    dtypes: dict[relax.Var, str] = {}
    reasons = []
    result = {var for var, readers in users(function).items() if None in readers}
    for binding in bindings(function):
        var, call = binding.var, binding.value
        if var in result or not isinstance(var, relax.DataflowVar):
            continue
        func, change = called(mod, call), layout_change(mod, call)
        kernel = None if func is None else packed_kernel(func)
        if kernel is not None:
            layouts[var], dtypes[var] = kernel[1].y, dtype_of(var)
        elif change is not None:
            source = call.args[1].fields[0]
            if source in layouts and _serves(layouts[source], dtypes[source], change):
                layouts[var], dtypes[var] = layouts[source], dtypes[source]
        elif isinstance(call, relax.Call):
            forms = [
                (layouts[tensor].c_block, dtypes[tensor]) if tensor in layouts else None
                for tensor in tensors_of(call)
            ]
            first = next((tensor for tensor in tensors_of(call) if tensor in layouts), None)
            if first is not None:
                own = layouts[first].c_block, dtypes[first]
                forms = [
                    own if form is None and is_read_plain(call, tensor, own[1]) else form
                    for form, tensor in zip(forms, tensors_of(call), strict=True)
                ]
            reason = why_not(call, forms)
            if reason is None and first is not None:
                plain = replace(layouts[first], halo_h=0, halo_w=0)
                given = OPERATORS[call.op.name].result
                layouts[var], dtypes[var] = given(call, plain, dtypes[first])
            elif first is not None:
                reasons.append(f"{_named(mod, call)} of {list(static_shape(var) or ())}: {reason}")
    for binding in reversed(bindings(function)):
        change = layout_change(mod, binding.value)
        if change is not None and binding.var in layouts:
            source = binding.value.args[1].fields[0]
            asked = layouts[binding.var]
            if change["kind"] == "pack":
                asked = asked.covering(PackedLayout(**change["layout"]))
            layouts[source] = layouts[source].covering(asked)
    for binding in bindings(function):  # a twin is stored once, for all its readers
        if layout_change(mod, binding.value) is not None and binding.var in layouts:
            layouts[binding.var] = layouts[binding.value.args[1].fields[0]]
    return layouts, reasons


def _serves(layout: PackedLayout, dtype: str, change: dict) -> bool:
    """Whether a packed value is what a layout change gives, but for its halo.

    A quantised value may be read with another zero point than it is stored with, by which it would
    have to be surrounded; and one that was float16 is stored in blocks of more channels, which a
    kernel of numbers is made for anew.
    """
    asked = PackedLayout(**change["layout"])
    blocks = dtype in FLOATS or layout.c_block == asked.c_block
    same = blocks and layout.fill == asked.fill
    return (change["kind"] == "unpack" or same) and dtype == change["dtype"]


def _named(mod: tvm.IRModule, call: relax.Call) -> str:
    """What a user knows an operator by: its name, or that of its loop nest."""
    if called(mod, call) is not None:
        return call.args[0].name_hint.rstrip("0123456789")
    return call.op.name.rsplit(".", 1)[-1] if isinstance(call.op, tvm.ir.Op) else str(call.op)


def _layout_changes(mod: tvm.IRModule) -> int:
    return sum(
        layout_change(mod, binding.value) is not None
        for function in mod.functions.values()
        if isinstance(function, relax.Function)
        for binding in bindings(function)
    )
