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

A conv2d is a conv3d of depth 1, so it shares kernels, weight format and layout. Operators between
the convolutions follow; what has no such form gets its value back without the axis. The reshapes
are views.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import (
    constant,
    ints,
    is_op,
    known_shape,
    rewritten,
    static_shape,
)
from rt3d_tvm.compile.ir.elementwise_calls import ELEMENTWISE

# Where the frames stand in (B, C, D, H, W).
DEPTH_AXIS = 2


@tvm.transform.module_pass(opt_level=0, name="Conv2dAsConv3d")
class Conv2dAsConv3d:
    """Rewrite every conv2d, and the operators on what comes out of it."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with its pictures as clips of one frame."""
        mod = relax.transform.ConvertToDataflow(min_size=1)(mod)
        return relax.transform.DeadCodeElimination()(rewritten(mod, _Rewriter(mod)))


def why_not(call: relax.Expr) -> str | None:
    """Why an operator on pictures has no form on clips of one frame, or None where it has."""
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return "it is no operator"
    if call.op.name not in _OPERATORS:
        return f"{call.op.name} has none"
    for tensor in (call, *_tensors(call)):
        shape = static_shape(tensor)
        if shape is None:
            return f"its shape {tensor.ty} is not static"
        if len(shape) != 4 and constant(tensor) is None:
            return f"its shape {shape} is not that of pictures"
    layouts = [getattr(call.attrs, name, "") for name in ("data_layout", "layout", "out_layout")]
    if any(layout not in ("", "NCHW") for layout in layouts):
        return f"its layouts are {layouts}, not NCHW"
    if is_op(call, "relax.nn.conv2d") and constant(call.args[1]) is None:
        return "its weight is not a constant"
    if is_op(call, "relax.mean") and not (call.attrs.axis and call.attrs.keepdims):
        return "it is a mean that drops axes"
    return None


def _window(attrs, *names: str) -> dict:
    """Attributes along H and W with what leaves D alone put before them."""
    alone = {"strides": 1, "dilation": 1, "pool_size": 1, "padding": 0}
    values = {}
    for name in names:
        given = ints(getattr(attrs, name))
        halves = (given[:2], given[2:]) if len(given) == 4 else (given,)
        values[name] = [value for half in halves for value in (alone[name], *half)]
    return values


def _conv(call: relax.Call, x: relax.Expr, weight: relax.Expr) -> relax.Call:
    window = _window(call.attrs, "strides", "padding", "dilation")
    return relax.op.nn.conv3d(x, weight, groups=call.attrs.groups, **window)


def _pool(operator):
    def pool(call: relax.Call, x: relax.Expr) -> relax.Call:
        window = _window(call.attrs, "pool_size", "strides", "padding", "dilation")
        modes = {name: getattr(call.attrs, name) for name in ("ceil_mode", "count_include_pad")}
        return operator(x, **window, **modes)

    return pool


def _mean(call: relax.Call, x: relax.Expr) -> relax.Call:
    axes = {int(axis) % 4 for axis in call.attrs.axis}
    # The one frame goes with the plane: the mean is the same, over a window that kernels know.
    moved = {axis + (axis >= DEPTH_AXIS) for axis in axes}
    if axes >= {2, 3}:
        moved.add(DEPTH_AXIS)
    return relax.op.mean(x, axis=sorted(moved), keepdims=True)


def _concat(call: relax.Call, *parts: relax.Expr) -> relax.Call:
    axis = int(call.attrs.axis) % 4
    return relax.op.concat(list(parts), axis=axis + (axis >= DEPTH_AXIS))


def _same(call: relax.Call, *tensors: relax.Expr) -> relax.Call:
    numbers = [arg for arg in call.args if tvm.ir.is_prim_expr(arg)]  # the bounds of a clip
    return relax.Call(call.op, [*tensors, *numbers], call.attrs)


# Operator -> the same on (B, C, 1, H, W), of the call and its tensors in that form.
_OPERATORS = {
    **dict.fromkeys(ELEMENTWISE, _same),
    "relax.nn.conv2d": _conv,
    "relax.nn.max_pool2d": _pool(relax.op.nn.max_pool3d),
    "relax.nn.avg_pool2d": _pool(relax.op.nn.avg_pool3d),
    "relax.quantize": _same,
    "relax.dequantize": _same,
    "relax.mean": _mean,
    "relax.concat": _concat,
}


def _tensors(call: relax.Call) -> list[relax.Expr]:
    """The tensors an operator reads, those in a tuple one by one."""
    return [
        tensor
        for arg in call.args
        for tensor in (arg.fields if isinstance(arg, relax.Tuple) else [arg])
        if not tvm.ir.is_prim_expr(tensor)
    ]


def _drops_frame(call: relax.Expr) -> bool:
    """Whether it is a reshape of (B, C, 1, H, W) to (B, C, H, W)."""
    if not is_op(call, "relax.reshape"):
        return False
    before, after = static_shape(call.args[0]), static_shape(call)
    return before is not None and len(before) == 5 and after == (*before[:2], *before[3:])


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Keeps, for each picture that has one, the clip of one frame; makes the picture on demand."""

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.clip_of: dict[relax.Var, relax.Var] = {}
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """On clips where it starts with a conv2d or reads what came from one."""
        var, call = binding.var, binding.value
        if _drops_frame(call):  # a kernel's clip as a picture
            super().visit_var_binding_(binding)
            self.clip_of[var] = self.visit_expr(call.args[0])
            return
        if why_not(call) is not None or not (
            is_op(call, "relax.nn.conv2d") or any(t in self.clip_of for t in _tensors(call))
        ):
            super().visit_var_binding_(binding)
            return
        clips = [self.clip(tensor) for tensor in _tensors(call)]
        self.clip_of[var] = self.builder_.emit(_OPERATORS[call.op.name](call, *clips))
        # What reads the picture still finds it; where nothing does, dead code is removed.
        emit = self.builder_.emit
        if not isinstance(var, relax.DataflowVar):
            emit = self.builder_.emit_output
        self.set_var_remap(var, emit(relax.op.reshape(self.clip_of[var], static_shape(var))))

    def clip(self, tensor: relax.Expr) -> relax.Expr:
        """A tensor with the axis of its one frame; a constant that is broadcast, likewise."""
        if tensor in self.clip_of:
            return self.clip_of[tensor]
        value = constant(tensor)
        if value is not None:
            axis = value.ndim - 4 + DEPTH_AXIS  # H and W are the last two
            return relax.const(np.expand_dims(value, axis) if axis >= 0 else value)
        batch, channels, *plane = known_shape(tensor)
        shape = (batch, channels, 1, *plane)
        return self.builder_.emit(relax.op.reshape(self.visit_expr(tensor), shape))
