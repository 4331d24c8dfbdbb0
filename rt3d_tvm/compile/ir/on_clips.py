"""Operators on pictures, lines and clips with axes in another order: the same on clips.

Each function takes the call, its tensors as `OnClip` and where several pictures lie, and gives the
operator on the clips and where the result's axes lie; None where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.clip_axes import (
    DEPTH_AXIS,
    HEIGHT_AXIS,
    WINDOWED,
    ClipAxes,
    places_of,
    swapped_with_width,
)
from rt3d_tvm.compile.ir.dataflow import constant, ints, known_constant, known_shape, scale_and_zero
from rt3d_tvm.compile.ir.elementwise_calls import ELEMENTWISE

CONVOLUTIONS = tuple(f"relax.nn.conv{n}d" for n in (1, 2, 3))
TRANSPOSED = tuple(f"relax.nn.conv{n}d_transpose" for n in (1, 2, 3))


@dataclass(frozen=True, eq=False)
class OnClip:
    """A clip, and where in it the axes of the tensor lie whose values it holds."""

    clip: relax.Expr
    axes: ClipAxes


# What makes the clip of a tensor with its axes at given places.
AsClip = Callable[[relax.Expr, ClipAxes], relax.Expr]
Result = tuple[relax.Expr, ClipAxes]


@dataclass(frozen=True, eq=False)
class Operands:
    """The tensors of a call: ``known`` those that lie in a clip already.

    batch: where several pictures lie that a clip is made of.
    """

    tensors: Sequence[relax.Expr]
    known: Sequence[OnClip | None]
    as_clip: AsClip
    batch: int

    @property
    def first(self) -> OnClip:
        """The first tensor, which is known."""
        found = self.known[0]
        assert found is not None
        return found


def _spatial(x: OnClip, batch: int) -> list[int] | None:
    """Where the axes behind the channels lie, each along an axis that windows may have."""
    placed = x.axes.placed(range(2, len(x.axes.axes)), batch)
    return placed if placed is not None and set(placed) <= set(WINDOWED) else None


def _along(values: Sequence[int], places: Sequence[int], alone: int) -> list[int]:
    """A value for each of D, H, W: those given, and what leaves an axis alone."""
    found = dict(zip(places, values, strict=True))
    return [found.get(place, alone) for place in WINDOWED]


def _window(attrs, places: Sequence[int], *names: str) -> dict:
    """Attributes along the last axes of pictures as those along D, H and W."""
    alone = {"strides": 1, "dilation": 1, "pool_size": 1, "padding": 0, "output_padding": 0}
    values = {}
    for name in names:
        given, count = ints(getattr(attrs, name)), len(places)
        halves = [given[at : at + count] for at in range(0, len(given), count)]
        values[name] = [n for half in halves for n in _along(half, places, alone[name])]
    return values


def _resized(x: OnClip, on_clip: relax.Expr, placed: dict[int, int], out: Sequence[int]) -> Result:
    extents = {place: out[axis] for axis, place in placed.items()}
    return on_clip, x.axes.resized(extents, placed)


def _windowed(
    call: relax.Call, x: OnClip, made: Callable, batch: int, channels: bool
) -> Result | None:
    """An operator with a window; ``channels``: whether the channels have to lie along C."""
    places = _spatial(x, batch)
    if places is None:
        return None
    placed = dict(enumerate(places, 2))
    if channels:
        at = x.axes.placed([1, *placed], batch)
        if at is None or at[0] != 1 or at[1:] != places:
            return None
        placed[1] = 1
    return _resized(x, made(places), placed, known_shape(call))


def _conv(call: relax.Call, given: Operands) -> Result | None:
    x, weight = given.first, known_constant(given.tensors[1])

    def made(places: list[int]) -> relax.Expr:
        order = [0, 1, *(2 + place for place in np.argsort(places))]
        extents = _along(weight.shape[2:], places, 1)
        wide = np.ascontiguousarray(weight.transpose(order).reshape(*weight.shape[:2], *extents))
        names, operator = ["strides", "padding", "dilation"], relax.op.nn.conv3d
        if call.op.name in TRANSPOSED:
            names, operator = [*names, "output_padding"], relax.op.nn.conv3d_transpose
        window = _window(call.attrs, places, *names)
        return operator(x.clip, relax.const(wide), groups=call.attrs.groups, **window)

    return _windowed(call, x, made, given.batch, channels=True)


def _pool(operator: Callable) -> Callable:
    def pool(call: relax.Call, given: Operands) -> Result | None:
        def made(places: list[int]) -> relax.Expr:
            window = _window(call.attrs, places, "pool_size", "strides", "padding", "dilation")
            modes = {name: getattr(call.attrs, name) for name in ("ceil_mode", "count_include_pad")}
            return operator(given.first.clip, **window, **modes)

        return _windowed(call, given.first, made, given.batch, channels=False)

    return pool


def _resize(call: relax.Call, given: Operands) -> Result | None:
    names = ("method", "coordinate_transformation_mode", "rounding_method")
    kept = {name: getattr(call.attrs, name) for name in names}

    def made(places: list[int]) -> relax.Expr:
        out = dict(zip(places, known_shape(call)[2:], strict=True))
        size = [out.get(place, given.first.axes.clip[place]) for place in WINDOWED]
        return relax.op.image.resize3d(given.first.clip, size, layout="NCDHW", **kept)

    return _windowed(call, given.first, made, given.batch, channels=False)


def _mean(call: relax.Call, given: Operands) -> Result:
    x, rank = given.first, len(known_shape(call))
    axes = {int(axis) % rank for axis in call.attrs.axis}
    moved = {place for axis in axes for place in x.axes.axes[axis]}
    # Axes of one place go with the plane: the mean is the same, over a window that kernels know.
    if axes >= set(range(2, rank)) or not moved:
        moved.update(place for place in WINDOWED if x.axes.clip[place] == 1)
    on_clip = relax.op.mean(x.clip, axis=sorted(moved), keepdims=True)
    return on_clip, x.axes.resized(dict.fromkeys(moved, 1), {})


def _softmax(call: relax.Call, given: Operands) -> Result | None:
    places = given.first.axes.placed([int(call.attrs.axis)], given.batch)
    if places is None:
        return None
    return relax.op.nn.softmax(given.first.clip, axis=places[0]), given.first.axes


def _slice(call: relax.Call, given: Operands) -> Result | None:
    x, out = given.first, known_shape(call)
    listed = [[int(each.value) for each in arg.fields] for arg in call.args[1:5]]
    axes = [axis % len(out) for axis in listed[0]]
    # Of an axis of extent 1 a slice is all.
    cut = [number for number, axis in enumerate(axes) if x.axes.axes[axis]]
    places = x.axes.placed([axes[number] for number in cut], given.batch)
    if places is None:
        return None
    placed = {axes[number]: place for number, place in zip(cut, places, strict=True)}
    if not cut:
        return x.clip, x.axes
    others = [[values[number] for number in cut] for values in listed[1:]]
    return _resized(x, relax.op.strided_slice(x.clip, places, *others), placed, out)


def _pad(call: relax.Call, given: Operands) -> Result | None:
    x, out = given.first, known_shape(call)
    given_width = list(map(int, call.attrs.pad_width))
    padded = [axis for axis in range(len(out)) if any(given_width[2 * axis : 2 * axis + 2])]
    places = x.axes.placed(padded, given.batch)
    if places is None:
        return None
    placed, width = dict(zip(padded, places, strict=True)), [0] * 10
    for axis, place in placed.items():
        width[2 * place : 2 * place + 2] = given_width[2 * axis : 2 * axis + 2]
    mode, value = call.attrs.pad_mode, float(call.attrs.pad_value)
    return _resized(x, relax.op.nn.pad(x.clip, width, mode, value), placed, out)


def _concat(call: relax.Call, given: Operands) -> Result | None:
    """What is filled with one number at an end is a pad."""
    out, count = known_shape(call), len(given.tensors)
    axis = int(call.attrs.axis) % len(out)
    # The places are those of a part whose axis has an extent, where there is one.
    first = min(filter(None, given.known), key=lambda part: not part.axes.axes[axis])
    places = first.axes.placed([axis], given.batch)
    if places is None:
        return None
    sizes = [known_shape(tensor)[axis] for tensor in given.tensors]
    numbers = [_number(tensor) for tensor in given.tensors]
    inner = [number for number in range(count) if numbers[number] is None]
    begin, end = inner[0], inner[-1] + 1
    values = {*numbers[:begin], *numbers[end:]}
    if len(values) != 1:
        begin, end = 0, count
    parts = [
        _laid(tensor, known, first.axes.resized({places[0]: size}, {axis: places[0]}), given)
        for tensor, known, size in zip(given.tensors, given.known, sizes, strict=True)
    ][begin:end]
    joined = parts[0] if len(parts) == 1 else relax.op.concat(parts, axis=places[0])
    if len(values) == 1:
        width = [0] * 10
        width[2 * places[0] : 2 * places[0] + 2] = sum(sizes[:begin]), sum(sizes[end:])
        joined = relax.op.nn.pad(joined, width, "constant", float(values.pop() or 0.0))
    return joined, first.axes.resized({places[0]: out[axis]}, {axis: places[0]})


def _number(tensor: relax.Expr) -> float | None:
    """The one number that a constant is full of; None for another tensor."""
    value = constant(tensor)
    if value is None or not value.size or not (value == value.flat[0]).all():
        return None
    return float(value.flat[0])


def _same(call: relax.Call, given: Operands) -> Result | None:
    out = known_shape(call)
    lead = next((each for each in given.known if each and each.axes.shape == out), None)
    if lead is None:
        return None
    of_pictures = lead.axes == ClipAxes.of(out, places_of(len(out), given.batch))
    clips = []
    for tensor, known in zip(given.tensors, given.known, strict=True):
        if constant(tensor) is not None and not known_shape(tensor):
            clips.append(tensor)
            continue
        wanted = lead.axes.broadcast(known_shape(tensor))
        moves = wanted.steps()[1] != sorted(wanted.steps()[1])
        if known is None and constant(tensor) is None and moves and not of_pictures:
            return None  # to move it costs as much as to move the others back
        clips.append(_laid(tensor, known, wanted, given))
    numbers = [arg for arg in call.args if tvm.ir.is_prim_expr(arg)]  # the bounds of a clip
    return relax.Call(call.op, [*clips, *numbers], call.attrs), lead.axes


def _laid(
    tensor: relax.Expr, known: OnClip | None, wanted: ClipAxes, given: Operands
) -> relax.Expr:
    """The clip of a tensor with its axes where they are wanted."""
    if known is not None and known.axes == wanted:
        return known.clip
    # A line that went to W for a convolution goes back.
    for place in (DEPTH_AXIS, HEIGHT_AXIS) if known is not None else ():
        if known.axes.with_width(place) == wanted:
            return relax.op.permute_dims(known.clip, swapped_with_width(place))
    value = constant(tensor)
    return given.as_clip(tensor, wanted) if value is None else relax.const(wanted.of_array(value))


def _quantized(call: relax.Call, given: Operands) -> Result | None:
    """With scales per channel only where the channels keep their place."""
    axes, axis = given.first.axes, int(call.attrs.axis)
    if scale_and_zero(call) is None and axes.axes[axis % len(axes.axes)] != (axis,):
        return None
    return relax.Call(call.op, [given.first.clip, *call.args[1:]], call.attrs), axes


def _view(call: relax.Call, given: Operands) -> Result | None:
    """The clip stays as it is."""
    axes = given.first.axes
    if call.op.name == "relax.permute_dims":
        order = range(len(axes.axes))[::-1] if call.attrs.axes is None else ints(call.attrs.axes)
        return given.first.clip, axes.permuted(order)
    moved = axes.reshaped(known_shape(call))
    return None if moved is None else (given.first.clip, moved)


VIEWS = ("relax.permute_dims", "relax.reshape", "relax.expand_dims", "relax.squeeze")
# Operator -> the same on clips.
OPERATORS: dict[str, Callable[[relax.Call, Operands], Result | None]] = {
    **dict.fromkeys(ELEMENTWISE, _same),
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED), _conv),
    **{f"relax.nn.max_pool{n}d": _pool(relax.op.nn.max_pool3d) for n in (1, 2, 3)},
    **{f"relax.nn.avg_pool{n}d": _pool(relax.op.nn.avg_pool3d) for n in (1, 2, 3)},
    "relax.quantize": _quantized,
    "relax.dequantize": _quantized,
    "relax.mean": _mean,
    "relax.nn.softmax": _softmax,
    "relax.concat": _concat,
    "relax.strided_slice": _slice,
    "relax.nn.pad": _pad,
    "relax.image.resize2d": _resize,
    "relax.image.resize3d": _resize,
    **dict.fromkeys(VIEWS, _view),
}
