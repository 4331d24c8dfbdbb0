"""Conv2dAsConv3d: a network of pictures -> the same network of clips with one frame.

Before::

    lv = R.nn.conv2d(x, const, strides=[2, 2], padding=[1, 1, 1, 1])     # (B, M, H, W)
    lv1 = R.add(lv, const)                                               # (1, M, 1, 1)
    lv2 = R.nn.relu(lv1)
    lv3 = R.nn.max_pool2d(lv2, pool_size=[2, 2], ...)

After::

    lv = R.reshape(x, (B, N, 1, H, W))
    lv1 = R.nn.conv3d(lv, const, strides=[1, 2, 2], padding=[0, 1, 1, 0, 1, 1])
    lv2 = R.add(lv1, const)                                              # (1, M, 1, 1, 1)
    lv3 = R.nn.relu(lv2)
    lv4 = R.nn.max_pool3d(lv3, pool_size=[1, 2, 2], ...)

A conv2d is a conv3d of depth 1, so it shares kernels, weight format and layout. A conv1d likewise,
of height 1 too. Several pictures are as many frames of one clip, since a kernel keeps its weights
for all planes: (B, C, H, W) is (1, C, B, H, W). Operators between the convolutions follow. Axes
that change places or become one leave the clip as it is (ir/clip_axes.py): shifts between the
frames of pictures, lines in time and transposed slices are slices, pads and convolutions along
other axes of it. What has no such form gets its value back. The reshapes of one picture are views.

A line, which has one axis only, lies along W where a convolution reads it, in conv3d too::

    lv = R.nn.conv3d(x, const, ...)                  # (1, N, D, 1, 1), a window of (3, 1, 1)

    lv = R.permute_dims(x, axes=[0, 1, 4, 3, 2])     # (1, N, 1, 1, D)
    lv1 = R.nn.conv3d(lv, const, ...)                # a window of (1, 1, 3)
"""

from __future__ import annotations

from collections.abc import Iterator

import tvm
from tvm import relax

from rt3d_tvm.compile.ir.clip_axes import (
    DEPTH_AXIS,
    ClipAxes,
    places_of,
    swapped_with_width,
)
from rt3d_tvm.compile.ir.dataflow import (
    bindings,
    constant,
    is_op,
    known_shape,
    rewritten,
    static_shape,
)
from rt3d_tvm.compile.ir.on_clips import (
    CONVOLUTIONS,
    OPERATORS,
    TRANSPOSED,
    VIEWS,
    OnClip,
    Operands,
)

# By the axes of a tensor, the channels' layout that its operators have.
LAYOUTS = {3: "NCW", 4: "NCHW", 5: "NCDHW"}
# Their other arguments say what to do.
_OF_ONE_TENSOR = ("relax.strided_slice", "relax.nn.pad", *VIEWS)
_RESIZES = ("relax.image.resize2d", "relax.image.resize3d")


@tvm.transform.module_pass(opt_level=0, name="Conv2dAsConv3d")
class Conv2dAsConv3d:
    """Rewrite every conv2d and conv1d, and the operators on what comes out of a convolution."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with its pictures as clips of one frame."""
        mod = relax.transform.ConvertToDataflow(min_size=1)(mod)
        return relax.transform.DeadCodeElimination()(rewritten(mod, _Rewriter(mod)))


def why_not(call: relax.Expr) -> str | None:
    """Why an operator has no form on clips, wherever its axes lie, or None where it may have."""
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return "it is no operator"
    if call.op.name not in OPERATORS:
        return f"{call.op.name} has none"
    rank = len(static_shape(call) or ())
    for tensor in (call, *_tensors(call)):
        if static_shape(tensor) is None:
            return f"its shape {tensor.ty} is not static"
    if call.op.name in VIEWS:
        return None
    if rank not in LAYOUTS:
        return f"its shape {static_shape(call)} is not that of pictures"
    layouts = [getattr(call.attrs, name, "") for name in ("data_layout", "layout", "out_layout")]
    if any(layout not in ("", LAYOUTS[rank]) for layout in layouts):
        return f"its layouts are {layouts}, not {LAYOUTS[rank]}"
    if _is_conv(call) and constant(call.args[1]) is None:
        return "its weight is not a constant"
    if any(is_op(call, name) for name in _RESIZES) and call.attrs.method not in (
        "nearest_neighbor",
        "linear",
    ):
        return f"its method is {call.attrs.method}, which there is none for on clips"
    if is_op(call, "relax.mean") and not (call.attrs.axis and call.attrs.keepdims):
        return "it is a mean that drops axes"
    return None


def _is_conv(call: relax.Expr) -> bool:
    return any(is_op(call, name) for name in (*CONVOLUTIONS, *TRANSPOSED))


def _tensors(call: relax.Call) -> list[relax.Expr]:
    """The tensors an operator reads, those in a tuple one by one."""
    first = (*_OF_ONE_TENSOR, *_RESIZES)
    return [
        tensor
        for arg in (call.args[:1] if any(is_op(call, name) for name in first) else call.args)
        for tensor in (arg.fields if isinstance(arg, relax.Tuple) else [arg])
        if not tvm.ir.is_prim_expr(tensor)
    ]


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Keeps, for each value that has one, its clip; makes the value on demand."""

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.known: dict[relax.Var, OnClip] = {}
        self.bound = {binding.var: binding.value for binding in bindings(function)}
        # Kernels of 8 bit are there already, and give each picture as a clip of its own.
        kernels = any(is_op(value, "relax.call_tir") for value in self.bound.values())
        self.batch = 0 if kernels else DEPTH_AXIS
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """On clips where it starts with a convolution or reads what came from one."""
        var, call = binding.var, binding.value
        found = None if self.stays(call) else self.on_clip(call)
        if found is None:
            super().visit_var_binding_(binding)
            if self.is_clip(call):
                axes = ClipAxes.of(known_shape(call), range(5))
                self.known[var] = OnClip(self.visit_expr(var), axes)
            return
        self.known[var] = found
        # What reads the value itself still finds it; where nothing does, dead code is removed.
        emit = self.builder_.emit
        if not isinstance(var, relax.DataflowVar):
            emit = self.builder_.emit_output
        self.set_var_remap(var, emit(self.plain(found)))

    def stays(self, call: relax.Expr) -> bool:
        """Whether nothing is to do: no form on clips, a clip's already, of no convolution."""
        if why_not(call) is not None:
            return True
        known = [self.known[each] for each in _tensors(call) if each in self.known]
        constants = any(constant(each) is not None for each in _tensors(call))
        if is_op(call, "relax.concat") and constants:  # maybe a pad
            return not known
        if len(known_shape(call)) == 5 and call.op.name not in VIEWS:
            axes = ClipAxes.of(known_shape(call.args[0]), range(5)) if _is_conv(call) else None
            turns = axes is not None and axes.line is not None
            return all(each.axes.is_clip for each in known) and not turns
        return not known and not _is_conv(call)

    def is_clip(self, call: relax.Expr) -> bool:
        """Whether a value that is left as it is is a clip that came from a convolution."""
        shape = static_shape(call)
        if shape is None or len(shape) != 5 or not isinstance(call, relax.Call):
            return False
        if _is_conv(call) or is_op(call, "relax.call_tir"):
            return True
        known = [self.known[each] for each in _tensors(call) if each in self.known]
        return why_not(call) is None and bool(known) and all(each.axes.is_clip for each in known)

    def on_clip(self, call: relax.Call) -> OnClip | None:
        """The same on clips, emitted; None where its axes do not lie so that it could be."""
        tensors = _tensors(call)
        known: list[OnClip | None] = [self.known.get(each) for each in tensors]
        for first in self.lines_of(tensors[0]) if _is_conv(call) else [known[0]]:
            given = Operands(tensors, [first, *known[1:]], self.as_clip, self.batch)
            made = OPERATORS[call.op.name](call, given)
            if made is not None:
                clip, axes = made
                is_new = not isinstance(clip, relax.Var)
                return OnClip(self.builder_.emit(clip) if is_new else clip, axes)
        return None

    def lines_of(self, tensor: relax.Expr) -> Iterator[OnClip]:
        """The clips that a convolution may read, of which a line lies along W.

        A kernel computes neighbours along W together; along D or H a line would be one at a time.
        What else reads the line has it along W from here on.
        """
        for found in self.clips_of(tensor):
            line = found.axes.line
            if line is None:
                yield found
                continue
            moved = relax.op.permute_dims(found.clip, swapped_with_width(line))
            along = OnClip(self.builder_.emit(moved), found.axes.with_width(line))
            if self.known.get(tensor) is found:
                self.known[tensor] = along
            yield along

    def clips_of(self, tensor: relax.Expr) -> Iterator[OnClip]:
        """The clips that a convolution may read: the known one, one that is viewed, a new one."""
        if tensor in self.known:
            yield self.known[tensor]
        views, source = [], tensor
        while (value := self.bound.get(source)) is not None and why_not(value) is None:
            if value.op.name not in VIEWS:
                break
            views.append(value)
            source = value.args[0]
        shape = static_shape(source)
        if views and shape is not None and len(shape) == 5:
            found: OnClip | None = OnClip(source, ClipAxes.of(shape, range(5)))
            for view in reversed(views):
                given = Operands([view.args[0]], [found], self.as_clip, self.batch)
                made = None if found is None else OPERATORS[view.op.name](view, given)
                found = None if made is None else OnClip(*made)
            if found is not None:
                yield OnClip(self.visit_expr(source), found.axes)
        shape = known_shape(tensor)
        axes = ClipAxes.of(shape, places_of(len(shape), self.batch))
        yield OnClip(self.as_clip(tensor, axes), axes)

    def as_clip(self, tensor: relax.Expr, axes: ClipAxes) -> relax.Expr:
        """The clip of a value that lies in none, or in another."""
        extents, order = axes.steps()
        value, shape = self.visit_expr(tensor), known_shape(tensor)
        if order != sorted(order):
            if tuple(extents) != shape:
                value = self.builder_.emit(relax.op.reshape(value, extents))
            value, shape = self.builder_.emit(relax.op.permute_dims(value, order)), ()
        return (
            value if shape == axes.clip else self.builder_.emit(relax.op.reshape(value, axes.clip))
        )

    def plain(self, found: OnClip) -> relax.Expr:
        """The value that a clip holds."""
        extents, order = found.axes.steps()
        shape = found.axes.shape
        if order == sorted(order):
            return found.clip if shape == found.axes.clip else relax.op.reshape(found.clip, shape)
        ascending = [extents[place] for place in order]
        split = self.builder_.emit(relax.op.reshape(found.clip, ascending))
        moved = relax.op.permute_dims(split, [order.index(n) for n in range(len(order))])
        if tuple(extents) == shape:
            return moved
        return relax.op.reshape(self.builder_.emit(moved), shape)
