"""Assignments to parts of a tensor, and single elements, written as what TVM computes as ONNX does.

TVM takes an index of a single element below 0 as it is, and updates of a smaller shape than the
tensor as if they had its shape. What slices are assigned is two slices and a concatenation.

Before::

    y = ScatterElements(x, [[2, 3]], updates, axis=1)     # x[:, 2:4] = updates

After::

    y = Concat(x[:, :2], updates, x[:, 4:], axis=1)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.compile.onnx_operators import attributes_of

if TYPE_CHECKING:
    import onnx

    from rt3d_tvm.compile.onnx_mends import Mender


def why_not_scattered(mender: Mender, node: onnx.NodeProto) -> str | None:
    """Why a ScatterElements at computed places is none that TVM computes, or None."""
    if node.op_type != "ScatterElements":
        return None
    shape, places = (list(mender.shapes[name]) for name in node.input[:2])
    axis = _axis(mender, node)
    if shape[:axis] + shape[axis + 1 :] == places[:axis] + places[axis + 1 :]:
        return None
    return (
        f"ScatterElements of {places} computed places in {shape}: of another axis than {axis} all "
        "are accepted, or places that are constant"
    )


def scattered_rows(mender: Mender, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Write a ScatterND at constant places as an assignment to slices, or as a choice of rows."""
    index = mender.value(node.input[1])
    if index is None or not index.size or _reduction(node) != b"none":
        yield node
        return
    shape, first = mender.shapes[node.input[0]], None
    size = shape[0]
    box = _box_of(index, shape)
    if index.ndim == 2 and index.shape[1] == 1:
        first = _slice_of(np.where(index < 0, index + size, index), [size, 1], 0)
    if first is not None:
        yield from _assigned(mender, node, 0, first)
    elif box is not None:
        yield from _boxed(mender, node, *box)
    else:
        yield from _chosen(mender, node, index)


def _box_of(index: np.ndarray, shape: Sequence[int]) -> tuple[list[int], list[int]] | None:
    """Where the box begins and ends that places along the first axes are, in order; or None."""
    depth = index.shape[-1]
    flat = np.where(index < 0, index + shape[:depth], index).reshape(-1, depth)
    begin, end = flat.min(axis=0), flat.max(axis=0) + 1
    extents = [int(extent) for extent in end - begin]
    if prod(extents) != len(flat):
        return None
    whole = np.indices(extents).reshape(depth, -1).T + begin
    return (begin.tolist(), end.tolist()) if (flat == whole).all() else None


def _boxed(
    mender: Mender, node: onnx.NodeProto, begin: Sequence[int], end: Sequence[int]
) -> Iterator[onnx.NodeProto]:
    """What lies around the box along its last axis, then along the one before it, and so on."""
    from onnx import helper

    data, _, updates = node.input
    output, shape = node.output[0], mender.shapes[data]

    def constant(name: str, *values: int) -> str:
        return mender.constant(f"{output}:{name}", np.array(values, np.int64))

    def part(source: str, axis: int, first: int, last: int) -> onnx.NodeProto:
        """A slice of what holds the box along the axes before."""
        what = f"{axis}:{first}:{last}"
        numbers = [constant(f"{n}{what}", n_) for n, n_ in (("b", first), ("e", last), ("a", axis))]
        return helper.make_node("Slice", [source, *numbers], [f"{output}:part{what}"])

    sources = [data]
    for axis in range(len(begin) - 1):
        yield (cut := part(sources[-1], axis, begin[axis], end[axis]))
        sources.append(cut.output[0])
    extents = [last - first for first, last in zip(begin, end, strict=True)]
    inner = f"{output}:new"
    new = [*extents, *shape[len(begin) :]]
    yield helper.make_node("Reshape", [updates, constant("to_box", *new)], [inner])
    for axis in reversed(range(len(begin))):
        names = [inner]
        for place, (first, last) in enumerate(((0, begin[axis]), (end[axis], shape[axis]))):
            if first < last:
                yield (side := part(sources[axis], axis, first, last))
                names.insert(place * len(names), side.output[0])
        if len(names) > 1:
            inner = f"{output}:joined{axis}"
            yield helper.make_node("Concat", names, [inner], axis=axis)
    yield helper.make_node("Identity", [inner], [output], node.name)


def _chosen(mender: Mender, node: onnx.NodeProto, index: np.ndarray) -> Iterator[onnx.NodeProto]:
    """A choice of rows: those of the operand and, after them, those that are put in at ``index``.

    Its last axis has a place each, along the first axes of the operand.
    """
    from onnx import helper

    data, _, updates = node.input
    shape, output = list(mender.shapes[data]), node.output[0]
    depth = index.shape[-1]
    rows, width = prod(shape[:depth]), prod(shape[depth:])
    flat = np.where(index < 0, index + shape[:depth], index).reshape(-1, depth)
    chosen = np.arange(rows)
    chosen[np.ravel_multi_index(tuple(flat.T), shape[:depth])] = rows + np.arange(len(flat))

    def ints(name: str, values: Sequence[int] | np.ndarray) -> str:
        return mender.constant(f"{output}:{name}", np.array(values, np.int64))

    parts, joint = [f"{output}:before", f"{output}:new"], f"{output}:joint"
    yield helper.make_node("Reshape", [data, ints("to_rows", [rows, width])], parts[:1])
    yield helper.make_node("Reshape", [updates, ints("new_rows", [len(flat), width])], parts[1:])
    yield helper.make_node("Concat", parts, [joint], axis=0)
    yield helper.make_node("Gather", [joint, ints("rows", chosen)], [f"{output}:rows_of"], axis=0)
    yield helper.make_node("Reshape", [f"{output}:rows_of", ints("to", shape)], [output])


def gathered_elements(mender: Mender, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Write the indices as ones from 0 on."""
    from onnx import helper

    name, output = node.input[1], node.output[0]
    size, value = mender.shapes[node.input[0]][_axis(mender, node)], mender.value(name)
    if value is not None:
        index = mender.constant(f"{output}:index", np.where(value < 0, value + size, value))
    else:
        whole = helper.tensor_dtype_to_np_dtype(mender.types[name])
        zero, last = (mender.constant(f"{output}:{n}", np.array(n, whole)) for n in (0, size))
        index, before, moved = (f"{output}:{what}" for what in ("index", "before", "moved"))
        yield helper.make_node("Less", [name, zero], [before])
        yield helper.make_node("Add", [name, last], [moved])
        yield helper.make_node("Where", [before, moved, name], [index])
    written = type(node)()
    written.CopyFrom(node)
    written.input[1] = index
    yield written


def scattered_elements(mender: Mender, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Write one at constant places as an assignment to a slice, or to rows of single elements."""
    from onnx import helper

    data, places, updates = node.input
    value, axis = mender.value(places), _axis(mender, node)
    shape = list(mender.shapes[data])
    if value is None or not value.size:
        yield from gathered_elements(mender, node)
        return
    value = np.where(value < 0, value + shape[axis], value)
    first = _slice_of(value, shape, axis)
    if first is not None and _reduction(node) == b"none":
        yield from _assigned(mender, node, axis, first)
        return
    index = np.indices(value.shape)
    index[axis] = value
    index = np.moveaxis(index, 0, -1)
    if _reduction(node) == b"none":
        yield from _chosen(mender, node, index)
        return
    name = mender.constant(f"{node.output[0]}:places", index.astype("int64"))
    yield helper.make_node(
        "ScatterND",
        [data, name, updates],
        node.output,
        node.name,
        reduction=_reduction(node),
    )


def _slice_of(places: np.ndarray, shape: Sequence[int], axis: int) -> int | None:
    """Where the slice begins that the places are, of all else; None where they are none."""
    along = np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1)
    others = [size for each, size in enumerate(shape) if each != axis]
    if [size for each, size in enumerate(places.shape) if each != axis] != others:
        return None
    first = int(along[0, 0])
    return first if (along == np.arange(len(along))[:, None] + first).all() else None


def _assigned(
    mender: Mender, node: onnx.NodeProto, axis: int, first: int
) -> Iterator[onnx.NodeProto]:
    """What is before the slice, the updates, and what is behind."""
    from onnx import helper

    data, _, updates = node.input
    output, size = node.output[0], mender.shapes[data][axis]
    sides = ((0, first), None, (first + mender.shapes[updates][axis], size))
    parts = []
    for number, side in enumerate(sides):
        if side is None:
            parts.append(updates)
        elif side[0] < side[1]:
            numbers = {"begin": side[0], "end": side[1], "axis": axis}
            names = [
                mender.constant(f"{output}:{name}{number}", np.array([each], np.int64))
                for name, each in numbers.items()
            ]
            parts.append(f"{output}:part{number}")
            yield helper.make_node("Slice", [data, *names], parts[-1:])
    if len(parts) == 1:
        yield helper.make_node("Identity", parts, [output], node.name)
    else:
        yield helper.make_node("Concat", parts, [output], node.name, axis=axis)


def _reduction(node: onnx.NodeProto) -> bytes:
    return attributes_of(node).get("reduction", b"none")


def _axis(mender: Mender, node: onnx.NodeProto) -> int:
    return attributes_of(node).get("axis", 0) % len(mender.shapes[node.input[0]])
