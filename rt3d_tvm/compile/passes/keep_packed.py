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

Pools, adds, concats, ReLUs and means between packed values become packed themselves; each value is
stored with the largest halo that one of its readers needs. Kernels are made anew from their
definitions for the layouts that this gives.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import tvm
from tvm import relax
from tvm.target import Target

from rt3d_tvm.compile.ir.dataflow import (
    bindings,
    constant,
    dtype_of,
    ints,
    rewritten,
    static_shape,
    users,
)
from rt3d_tvm.compile.ir.packed_call import (
    PACKED_KERNELS,
    called,
    emit_call,
    emit_unpack,
    layout_change,
    packed_kernel,
)
from topi_sparse import packed
from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.layout import PackedLayout
from topi_sparse.opencl.concat import opencl_concat, why_not_opencl_concat
from topi_sparse.opencl.max_pool3d import OpenCLMaxPool3d, opencl_max_pool3d
from topi_sparse.opencl.work_item import WorkItem, item_copies, item_pool_tile, work_item

# The module attributes under which the pass writes how many layout changes it has left, and, as
# JSON, which operators on packed values made it unpack them, and why.
CHANGES_ATTRIBUTE = "layout_changes"
UNPACKED_ATTRIBUTE = "not_packed"


@tvm.transform.module_pass(opt_level=0, name="KeepPacked")
class KeepPacked:
    """Take out the layout changes between kernels that KGSConv3d has put in.

    target: what the kernels are for, as KGSConv3d was told. Where it has work-items, an operator
    becomes the kernel that is written for them, if there is one; else, and without a target, a
    loop nest.
    """

    def __init__(self, target: Target | None = None) -> None:
        self.makers = {name: make for name, (_, make) in _OPERATORS.items()}
        if target is not None and target.kind.name == "opencl":
            item = work_item(target)
            self.makers |= {name: functools.partial(make, item) for name, make in _SIMT.items()}

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with packed values kept packed wherever every operator between allows it."""
        # A value that several convolutions read has been packed for each.
        mod = relax.transform.EliminateCommonSubexpr()(mod)
        rewriter = _Rewriter(mod, self.makers)
        mod = relax.transform.DeadCodeElimination()(rewritten(mod, rewriter))
        mod = mod.with_attr(UNPACKED_ATTRIBUTE, json.dumps(rewriter.not_packed))
        return mod.with_attr(CHANGES_ATTRIBUTE, _layout_changes(mod))


def why_not(call: relax.Expr, forms: list[tuple[int, str] | None]) -> str | None:
    """Why an operator cannot work on packed values, or None where it can.

    ``forms``: the channel block and type of each of its tensors, None for one that is not packed.
    """
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return "it is no operator"
    if call.op.name not in _OPERATORS:
        return f"{call.op.name} has no packed form"
    if not forms or None in forms or len(set(forms)) > 1:
        return "its tensors are not all packed in one channel block and type"
    return _OPERATORS[call.op.name][0](call, forms[0][0])


def _pool_why_not(call: relax.Call, _block: int) -> str | None:
    attrs = call.attrs
    if any(int(step) != 1 for step in attrs.dilation):
        return f"its dilation is {list(attrs.dilation)}, not 1"
    if attrs.layout != "NCDHW":
        return f"its layout is {attrs.layout}, not NCDHW"
    return None


def _max_pool_why_not(call: relax.Call, block: int) -> str | None:
    taps = 1
    for k in call.attrs.pool_size:
        taps *= int(k)
    if taps > packed.MAX_POOL_TAPS:
        return f"its window has {taps} taps, more than {packed.MAX_POOL_TAPS}"
    return _pool_why_not(call, block)


def _avg_pool_why_not(call: relax.Call, block: int) -> str | None:
    attrs = call.attrs
    data, out = static_shape(call.args[0])[2:], static_shape(call)[2:]
    windows = zip(data, out, attrs.strides, attrs.pool_size, strict=True)
    if any(int(pad) for pad in attrs.padding) or any(
        (o - 1) * int(step) + int(k) > size for size, o, step, k in windows
    ):
        return "its windows reach outside the input"
    return _pool_why_not(call, block)


def _add_why_not(call: relax.Call, _block: int) -> str | None:
    shapes = [static_shape(arg) for arg in call.args]
    return None if shapes[0] == shapes[1] else f"its shapes {shapes} differ"


def _mean_why_not(call: relax.Call, _block: int) -> str | None:
    axes = sorted(int(axis) % 5 for axis in call.attrs.axis or range(5))
    if axes != [2, 3, 4] or not call.attrs.keepdims:
        return f"it is a mean over axes {axes}, not over D, H, W with keepdims"
    return None


def _concat_why_not(call: relax.Call, _block: int) -> str | None:
    if call.attrs.axis is None or int(call.attrs.axis) % 5 != 1:
        return f"its axis is {call.attrs.axis}, not the channels"
    return None


def _minimum_why_not(call: relax.Call, _block: int) -> str | None:
    bound = constant(call.args[1])
    return None if bound is not None and bound.ndim == 0 else "its bound is no constant scalar"


def _windows(call: relax.Call) -> dict:
    """The arguments that every packed pool takes."""
    attrs = call.attrs
    return {
        "out": static_shape(call),
        "window": ints(attrs.pool_size),
        "stride": ints(attrs.strides),
    }


def _max_pool(call: relax.Call, data, layouts, y, dtype):
    padding = ints(call.attrs.padding)
    return packed.max_pool3d(data[0], layouts[0], y, dtype, padding=padding, **_windows(call))


def _max_pool_simt(item: WorkItem, call: relax.Call, data, layouts, y, dtype):
    windows = _windows(call)
    tile = item_pool_tile(
        windows["out"], window=windows["window"], stride=windows["stride"], item=item
    )
    pool = OpenCLMaxPool3d(
        **windows,
        data=data[0],
        padding=ints(call.attrs.padding)[:3],
        x=layouts[0],
        y=y,
        tile=tile,
        dtype=dtype,
    )
    return opencl_max_pool3d(pool)


def _concat_simt(item: WorkItem, call: relax.Call, data, layouts, y, dtype):
    if why_not_opencl_concat(data) is not None:
        return packed.concat(data, layouts, y, dtype)
    return opencl_concat(data, layouts, y, dtype, beside=item_copies(item))


def _avg_pool(call: relax.Call, data, layouts, y, dtype):
    return packed.avg_pool3d(data[0], layouts[0], y, dtype, **_windows(call))


# Operator -> (why it cannot be packed, its packed PrimFunc).
_OPERATORS = {
    "relax.nn.max_pool3d": (_max_pool_why_not, _max_pool),
    "relax.nn.avg_pool3d": (_avg_pool_why_not, _avg_pool),
    "relax.nn.relu": (
        lambda call, block: None,
        lambda call, data, layouts, y, dtype: packed.relu(data[0], layouts[0], y, dtype),
    ),
    "relax.minimum": (
        _minimum_why_not,
        lambda call, data, layouts, y, dtype: packed.minimum(
            data[0], layouts[0], y, dtype, bound=float(constant(call.args[1]))
        ),
    ),
    "relax.add": (
        _add_why_not,
        lambda call, data, layouts, y, dtype: packed.add(data[0], layouts, y, dtype),
    ),
    "relax.mean": (
        _mean_why_not,
        lambda call, data, layouts, y, dtype: packed.mean(data[0], layouts[0], y, dtype),
    ),
    "relax.concat": (_concat_why_not, lambda call, *args: packed.concat(*args)),
}

# Operator -> its packed PrimFunc for such work-items.
_SIMT = {"relax.nn.max_pool3d": _max_pool_simt, "relax.concat": _concat_simt}


def _tensors(call: relax.Call) -> list[relax.Expr]:
    """The tensors an operator reads, those in a tuple one by one; a constant scalar is none."""
    return [
        tensor
        for arg in call.args
        for tensor in (arg.fields if isinstance(arg, relax.Tuple) else [arg])
        if getattr(constant(tensor), "ndim", 1)
    ]


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Keeps, for each plain variable that has one, its packed twin, and makes it plain on demand.

    layout_of    the layout in which a variable of the old function, or its twin, is stored now
    twin         the new variable that holds the value, packed
    only_packed  those that have no plain form yet
    makers       operator -> what makes its packed PrimFunc
    """

    def __init__(self, mod: tvm.IRModule, makers: Mapping[str, Callable]) -> None:
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
        if change is not None:  # pack and unpack between packed values: nothing is left to do
            self.twin[var] = self.twin[call.args[1].fields[0]]
            if change["kind"] == "unpack":
                self.only_packed.add(var)
        elif func is not None:
            self.twin[var] = self.emit_kernel(func, call, self.layout_of[var])
            self.set_var_remap(var, self.twin[var])  # a view of it may be all that is read
        else:
            tensors = _tensors(call)
            func = self.makers[call.op.name](
                call,
                [static_shape(tensor) for tensor in tensors],
                [self.layout_of[tensor] for tensor in tensors],
                self.layout_of[var],
                dtype_of(self.twin[tensors[0]]),
            )
            operator = call.op.name.rsplit(".", 1)[-1]
            args = [self.twin[tensor] for tensor in tensors]
            self.twin[var] = emit_call(self.builder_, operator, func, args)
            self.only_packed.add(var)

    def emit_kernel(self, func: tvm.tirx.PrimFunc, call: relax.Call, y: PackedLayout) -> relax.Var:
        """The same kernel for the layouts in which its tensors are stored now."""
        name, definition = packed_kernel(func)
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
        if func is not None and packed_kernel(func) is not None:
            layouts[var], dtypes[var] = packed_kernel(func)[1].y, dtype_of(var)
        elif change is not None:
            source = call.args[1].fields[0]
            if source in layouts and dtypes[source] == change["dtype"]:
                layouts[var], dtypes[var] = layouts[source], dtypes[source]
        elif isinstance(call, relax.Call):
            forms = [
                (layouts[tensor].c_block, dtypes[tensor]) if tensor in layouts else None
                for tensor in _tensors(call)
            ]
            reason = why_not(call, forms)
            if reason is None:
                layouts[var], dtypes[var] = PackedLayout(c_block=forms[0][0]), forms[0][1]
            elif any(form is not None for form in forms):
                reasons.append(f"{var.name}: {reason}")
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


def _layout_changes(mod: tvm.IRModule) -> int:
    return sum(
        layout_change(mod, binding.value) is not None
        for function in mod.functions.values()
        if isinstance(function, relax.Function)
        for binding in bindings(function)
    )
