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
for all planes: (B, C, H, W) is (1, C, B, H, W). Where such pictures have been the frames of a clip,
that is read as it is. Operators between the convolutions follow; what has no such form gets its
value back without the axes. The reshapes of one picture are views.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import (
    bindings,
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
# By the axes of a tensor, the channels' layout that its operators have.
LAYOUTS = {3: "NCW", 4: "NCHW"}
CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d")
# Their other arguments say what to do.
_OF_ONE_TENSOR = ("relax.strided_slice", "relax.image.resize2d", "relax.nn.pad")
TRANSPOSED = ("relax.nn.conv1d_transpose", "relax.nn.conv2d_transpose")


@tvm.transform.module_pass(opt_level=0, name="Conv2dAsConv3d")
class Conv2dAsConv3d:
    """Rewrite every conv2d and conv1d, and the operators on what comes out of it."""

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
    rank = len(static_shape(call) or ())
    for tensor in (call, *_tensors(call)):
        shape = static_shape(tensor)
        if shape is None:
            return f"its shape {tensor.ty} is not static"
        if (rank not in LAYOUTS or len(shape) != rank) and constant(tensor) is None:
            return f"its shape {shape} is not that of pictures"
    layouts = [getattr(call.attrs, name, "") for name in ("data_layout", "layout", "out_layout")]
    if any(layout not in ("", LAYOUTS[rank]) for layout in layouts):
        return f"its layouts are {layouts}, not {LAYOUTS[rank]}"
    if _is_conv(call) and constant(call.args[1]) is None:
        return "its weight is not a constant"
    if is_op(call, "relax.image.resize2d") and call.attrs.method not in (
        "nearest_neighbor",
        "linear",
    ):
        return f"its method is {call.attrs.method}, which there is none for on clips"
    if is_op(call, "relax.mean") and not (call.attrs.axis and call.attrs.keepdims):
        return "it is a mean that drops axes"
    return None


def _is_conv(call: relax.Expr) -> bool:
    return any(is_op(call, name) for name in (*CONVOLUTIONS, *TRANSPOSED))


def _window(attrs, *names: str) -> dict:
    """Attributes along the last axes with what leaves those before them alone."""
    alone = {"strides": 1, "dilation": 1, "pool_size": 1, "padding": 0, "output_padding": 0}
    values = {}
    for name in names:
        given = ints(getattr(attrs, name))
        middle = len(given) // 2
        halves = (given[:middle], given[middle:]) if name == "padding" else (given,)
        values[name] = [
            value for half in halves for value in (*[alone[name]] * (3 - len(half)), *half)
        ]
    return values


def _moved(axis: int, rank: int, batch: int) -> int:
    """Where an axis of pictures stands in a clip whose axis ``batch`` tells them apart."""
    axis %= rank
    return batch if axis == 0 else 1 if axis == 1 else axis + 5 - rank


def _conv(call: relax.Call, _batch: int, x: relax.Expr, weight: relax.Expr) -> relax.Call:
    window = _window(call.attrs, "strides", "padding", "dilation")
    return relax.op.nn.conv3d(x, weight, groups=call.attrs.groups, **window)


def _transposed(call: relax.Call, _batch: int, x: relax.Expr, weight: relax.Expr) -> relax.Call:
    window = _window(call.attrs, "strides", "padding", "output_padding", "dilation")
    return relax.op.nn.conv3d_transpose(x, weight, groups=call.attrs.groups, **window)


def _pool(operator):
    def pool(call: relax.Call, _batch: int, x: relax.Expr) -> relax.Call:
        window = _window(call.attrs, "pool_size", "strides", "padding", "dilation")
        modes = {name: getattr(call.attrs, name) for name in ("ceil_mode", "count_include_pad")}
        return operator(x, **window, **modes)

    return pool


def _mean(call: relax.Call, batch: int, x: relax.Expr) -> relax.Call:
    shape = known_shape(call.args[0])
    axes = {int(axis) % len(shape) for axis in call.attrs.axis}
    moved = {_moved(axis, len(shape), batch) for axis in axes}
    # Axes of one place go with the plane: the mean is the same, over a window that kernels know.
    if axes >= set(range(2, len(shape))):
        moved.update(axis for axis in (2, 3, 4) if known_shape(x)[axis] == 1)
    return relax.op.mean(x, axis=sorted(moved), keepdims=True)


def _concat(call: relax.Call, batch: int, *parts: relax.Expr) -> relax.Call:
    rank = len(known_shape(call))
    return relax.op.concat(list(parts), axis=_moved(int(call.attrs.axis), rank, batch))


def _slice(call: relax.Call, batch: int, x: relax.Expr) -> relax.Call:
    axes, *others = ([int(each.value) for each in arg.fields] for arg in call.args[1:])
    rank = len(known_shape(call))
    return relax.op.strided_slice(x, [_moved(axis, rank, batch) for axis in axes], *others)


def _pad(call: relax.Call, batch: int, x: relax.Expr) -> relax.Call:
    rank = len(known_shape(call))
    width = [0] * 10
    for axis in range(rank):
        place = 2 * _moved(axis, rank, batch)
        width[place : place + 2] = map(int, call.attrs.pad_width[2 * axis : 2 * axis + 2])
    return relax.op.nn.pad(x, width, call.attrs.pad_mode, float(call.attrs.pad_value))


def _resize(call: relax.Call, _batch: int, x: relax.Expr) -> relax.Call:
    names = ("method", "coordinate_transformation_mode", "rounding_method")
    kept = {name: getattr(call.attrs, name) for name in names}
    size = (known_shape(x)[DEPTH_AXIS], *known_shape(call)[2:])
    return relax.op.image.resize3d(x, size, layout="NCDHW", **kept)


def _same(call: relax.Call, _batch: int, *tensors: relax.Expr) -> relax.Call:
    numbers = [arg for arg in call.args if tvm.ir.is_prim_expr(arg)]  # the bounds of a clip
    return relax.Call(call.op, [*tensors, *numbers], call.attrs)


# Operator -> the same on clips, of the call, the axis that pictures lie along, and its tensors.
_OPERATORS = {
    **dict.fromkeys(ELEMENTWISE, _same),
    **dict.fromkeys(CONVOLUTIONS, _conv),
    **dict.fromkeys(TRANSPOSED, _transposed),
    **dict.fromkeys(("relax.nn.max_pool1d", "relax.nn.max_pool2d"), _pool(relax.op.nn.max_pool3d)),
    **dict.fromkeys(("relax.nn.avg_pool1d", "relax.nn.avg_pool2d"), _pool(relax.op.nn.avg_pool3d)),
    "relax.quantize": _same,
    "relax.dequantize": _same,
    "relax.mean": _mean,
    "relax.concat": _concat,
    "relax.strided_slice": _slice,
    "relax.nn.pad": _pad,
    "relax.image.resize2d": _resize,
}


def _tensors(call: relax.Call) -> list[relax.Expr]:
    """The tensors an operator reads, those in a tuple one by one."""
    return [
        tensor
        for arg in (
            call.args[:1] if any(is_op(call, name) for name in _OF_ONE_TENSOR) else call.args
        )
        for tensor in (arg.fields if isinstance(arg, relax.Tuple) else [arg])
        if not tvm.ir.is_prim_expr(tensor)
    ]


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Keeps, for each picture that has one, the clip; makes the picture on demand."""

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.clip_of: dict[relax.Var, relax.Var] = {}
        self.bound = {binding.var: binding.value for binding in bindings(function)}
        # Kernels of 8 bit are there already, and give each picture as a clip of its own.
        kernels = any(is_op(value, "relax.call_tir") for value in self.bound.values())
        self.batch_axis = 0 if kernels else DEPTH_AXIS
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """On clips where it starts with a convolution or reads what came from one."""
        var, call = binding.var, binding.value
        frames = self.frames_of(call)
        if frames is not None:  # a clip as pictures
            super().visit_var_binding_(binding)
            self.clip_of[var] = self.visit_expr(frames)
            return
        if why_not(call) is not None or not (
            _is_conv(call) or any(t in self.clip_of for t in _tensors(call))
        ):
            super().visit_var_binding_(binding)
            return
        x, *others = _tensors(call)
        if _is_conv(call):
            clips = [self.clip(x), _weight(*others)]
        else:
            rank = len(known_shape(call))
            clips = [self.clip(tensor, rank) for tensor in (x, *others)]
        on_clips = _OPERATORS[call.op.name](call, self.batch_axis, *clips)
        self.clip_of[var] = self.builder_.emit(on_clips)
        # What reads the picture still finds it; where nothing does, dead code is removed.
        emit = self.builder_.emit
        if not isinstance(var, relax.DataflowVar):
            emit = self.builder_.emit_output
        self.set_var_remap(var, emit(self.picture(self.clip_of[var], static_shape(var))))

    def frames_of(self, call: relax.Expr) -> relax.Var | None:
        """The clip that a reshape makes pictures (B, C, H, W) of, or None.

        Clips of one frame, or the frames of one clip, whose axes have been changed before.
        """
        if not is_op(call, "relax.reshape"):
            return None
        source, after = call.args[0], static_shape(call)
        before = static_shape(source)
        if before is None or after is None or len(before) != 5 or len(after) != 4:
            return None
        if before[DEPTH_AXIS] == 1 and after == (*before[:2], *before[3:]):
            return source if before[0] == 1 or self.batch_axis == 0 else None
        moved = self.bound.get(source)
        if not is_op(moved, "relax.permute_dims") or self.batch_axis == 0:
            return None
        swapped = [int(axis) for axis in moved.attrs.axes or ()] == [0, 2, 1, 3, 4]
        return moved.args[0] if swapped and before[0] == 1 and after == before[1:] else None

    def picture(self, clip: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
        """The pictures of that shape that a clip holds."""
        batch, channels, *plane = shape
        if batch == 1 or self.batch_axis == 0:
            return relax.op.reshape(clip, shape)
        frames = self.builder_.emit(relax.op.reshape(clip, (channels, batch, *plane)))
        return relax.op.permute_dims(frames, [1, 0, *range(2, len(shape))])

    def clip(self, tensor: relax.Expr, rank: int = 0) -> relax.Expr:
        """Pictures as a clip; a constant that is broadcast to some of so many axes, likewise."""
        if tensor in self.clip_of:
            return self.clip_of[tensor]
        value = constant(tensor)
        if value is not None:
            return relax.const(self.constant_clip(value, rank))
        picture = self.visit_expr(tensor)
        batch, channels, *plane = shape = known_shape(tensor)
        if batch > 1 and self.batch_axis:
            order = [1, 0, *range(2, len(shape))]
            picture = self.builder_.emit(relax.op.permute_dims(picture, order))
        return self.builder_.emit(
            relax.op.reshape(picture, self.clip_shape(batch, channels, plane))
        )

    def clip_shape(self, batch: int, channels: int, plane: Sequence[int]) -> tuple[int, ...]:
        """(B, C, D, H, W) of the clip that holds so many pictures."""
        clips, frames = (1, batch) if self.batch_axis else (batch, 1)
        return (clips, channels, frames, *[1] * (2 - len(plane)), *plane)

    def constant_clip(self, value: np.ndarray, rank: int) -> np.ndarray:
        """What is broadcast to clips as ``value`` is to pictures of so many axes."""
        if value.ndim < rank - 1:  # along H and W, the last two
            return value
        wide = value.reshape((1,) * (rank - value.ndim) + value.shape)
        batch, channels, *plane = wide.shape
        if self.batch_axis:
            wide = np.moveaxis(wide, 0, 1)
        return np.ascontiguousarray(wide.reshape(self.clip_shape(batch, channels, plane)))


def _weight(weight: relax.Expr) -> relax.Expr:
    """(M, N, KH, KW) or (M, N, KW) as (M, N, KD, KH, KW)."""
    value = constant(weight)
    return relax.const(value.reshape(*value.shape[:2], *[1] * (5 - value.ndim), *value.shape[2:]))
