"""What loop nests on packed tensors have in common: halos, channels above C, broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import te, tirx

from topi_sparse.elementwise import computed, is_finite_at_zero
from topi_sparse.layout import PackedLayout

Shape = tuple[int, int, int, int, int]
# One function of a program: its name, and of each operand a tensor's place among the inputs, a
# number, or None for what the function before it has given.
Function = tuple[str, Sequence[int | float | None]]


def elementwise(
    tensors: Sequence[tuple[Shape, PackedLayout]],
    data: Shape,
    y: PackedLayout,
    dtype: str,
    functions: Sequence[Function],
) -> tirx.PrimFunc:
    """Functions of topi_sparse.elementwise, one behind the other, on tensors of these shapes.

    An axis of extent 1 is broadcast to that of ``data``, the result's shape.
    """

    def program(*values):
        last = None
        for name, operands in functions:
            taken = [
                last if each is None else values[each] if isinstance(each, int) else each
                for each in operands
            ]
            last = computed(name, *taken)
        return last

    finite = all(
        is_finite_at_zero(name, [each if isinstance(each, float) else None for each in operands])
        for name, operands in functions
    )
    return nest_of(tensors, data, y, dtype, program, zero_above=not finite)


def nest_of(
    tensors: Sequence[tuple[Shape, PackedLayout]],
    data: Shape,
    y: PackedLayout,
    dtype: str,
    function: Callable,
    *,
    result: str | None = None,
    zero_above: bool = False,
) -> tirx.PrimFunc:
    """``function`` of the values at one place, broadcast to ``data``.

    result: its type, where that is not ``dtype``. zero_above: whether the channels above C are set
    to the fill; else they are what the function makes of those of its inputs.
    """
    inputs = [
        placeholder(layout.shape(shape), dtype, f"x{i}")
        for i, (shape, layout) in enumerate(tensors)
    ]
    fill = tirx.const(y.fill, result or dtype)

    def value(n, block, d, h, w, c):
        def read(tensor, shape: Shape, layout: PackedLayout):
            at = [n, block, d, h - y.halo_h, w - y.halo_w]
            # An extent of 1 in both is no broadcast, and its index is 0 all the same.
            at = [0 if extent == 1 else index for index, extent in zip(at, shape, strict=True)]
            lane = 0 if shape[1] < data[1] else c
            at[1] = 0 if shape[1] < data[1] else block
            return tensor(*at[:3], at[3] + layout.halo_h, at[4] + layout.halo_w, lane)

        def finished():
            made = function(
                *(read(each, *tensor) for each, tensor in zip(inputs, tensors, strict=True))
            )
            made = made.astype(result or dtype)  # a number makes float32 of float16
            if zero_above and data[1] % y.c_block:
                return tirx.Select(block * y.c_block + c < data[1], made, fill)
            return made

        return guarded(inside(y, data, h, w), finished, fill)

    return prim_func(inputs, compute(y.shape(data), value, "elementwise"))


def placeholder(shape: Sequence[int], dtype: str, name: str):
    """A tensor that a loop nest reads."""
    return te.placeholder(_extents(shape), dtype, name)


def compute(shape: Sequence[int], value: Callable, name: str):
    """A tensor that a loop nest writes."""
    return te.compute(_extents(shape), value, name)


def _extents(shape: Sequence[int]) -> list[tirx.IntImm]:
    """Relax counts in int64, and fuses only functions that do as well."""
    return [tirx.IntImm("int64", extent) for extent in shape]


def reduce_axis(extent: int, name: str):
    """An axis to sum over."""
    return te.reduce_axis((tirx.IntImm("int64", 0), tirx.IntImm("int64", extent)), name)


def inside(layout: PackedLayout, data: Shape, h, w) -> list:
    """Conditions under which (h, w) of a packed tensor is no halo."""
    conditions = []
    if layout.halo_h:
        conditions += [h >= layout.halo_h, h < layout.halo_h + data[3]]
    if layout.halo_w:
        conditions += [w >= layout.halo_w, w < layout.halo_w + data[4]]
    return conditions


def guarded(conditions: list, value: Callable, fill):
    """``value()`` where all conditions hold, else ``fill``.

    Never a select: that would read outside.
    """
    if not conditions:
        return value()
    return tirx.if_then_else(tirx.all(*conditions), value(), fill)


def prim_func(inputs: list, output) -> tirx.PrimFunc:
    """The loop nest as a PrimFunc."""
    return te.create_prim_func([*inputs, output]).with_attr({"tirx.noalias": True})
