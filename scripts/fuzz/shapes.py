"""Blocks that change the shape, or what stands where: pads, cuts, copies, orders, sizes."""

from __future__ import annotations

from math import prod

import numpy as np

from scripts.fuzz.graph import MOST_ELEMENTS, Graph, fits
from scripts.fuzz.weights import normal


def pad(graph: Graph, x: str) -> str:
    """Wider by a constant, by the border or by a reflection."""
    rng, shape = graph.rng, graph.shapes[x]
    mode = rng.choice(("constant", "constant", "edge", "reflect"))
    first = 1 if mode == "constant" and rng.random() < 0.2 else 2
    amounts = [0] * 2 * len(shape)
    for axis in range(first, len(shape)):
        most = min(2, shape[axis] - 1) if mode == "reflect" else 2
        amounts[axis], amounts[axis + len(shape)] = rng.randint(0, most), rng.randint(0, most)
    out = [e + amounts[i] + amounts[i + len(shape)] for i, e in enumerate(shape)]
    inputs = [x, graph.ints(*amounts)]
    if mode == "constant" and rng.random() < 0.4:
        inputs.append(graph.constant(np.float32(rng.choice((0.0, 0.5, -1.0)))))
    return graph.add("Pad", inputs, out, mode=mode) if prod(out) <= MOST_ELEMENTS else x


def transposed(graph: Graph, x: str) -> str:
    """Two axes of space change places."""
    shape = graph.shapes[x]
    order = list(range(len(shape)))
    if len(shape) < 4:
        return x
    i, j = graph.rng.sample(order[2:], 2)
    order[i], order[j] = order[j], order[i]
    return graph.add("Transpose", [x], [shape[axis] for axis in order], perm=order)


def reshaped(graph: Graph, x: str) -> str:
    """Space in another shape; or an axis that comes and goes."""
    rng, shape = graph.rng, graph.shapes[x]
    if rng.random() < 0.4:
        axis = rng.randrange(1, len(shape))
        wider = graph.with_axes("Unsqueeze", x, [axis], (*shape[:axis], 1, *shape[axis:]), 13)
        return graph.with_axes("Squeeze", wider, [axis], shape, 13)
    out = [*shape[:2], *rng.sample(shape[2:], len(shape) - 2)]
    wanted = list(out)
    if rng.random() < 0.5:
        wanted[rng.choice((0, 1))] = 0  # as it was
    if rng.random() < 0.5:
        wanted[-1] = -1  # what is left
    return graph.add("Reshape", [x, graph.ints(*wanted)], out)


def shuffled(graph: Graph, x: str) -> str:
    """The channels in another order, by two groups, as ShuffleNet has them."""
    batch, channels, *extents = graph.shapes[x]
    if channels % 2 or prod(extents) * channels * batch > MOST_ELEMENTS:
        return x
    halves = (batch, 2, channels // 2, prod(extents))
    y = graph.add("Reshape", [x, graph.ints(*halves)], halves)
    y = graph.add("Transpose", [y], (batch, channels // 2, 2, halves[3]), perm=[0, 2, 1, 3])
    return graph.add("Reshape", [y, graph.ints(batch, channels, *extents)], graph.shapes[x])


def sliced(graph: Graph, x: str) -> str:
    """A part of one or two axes, forwards or backwards, by ends that may lie outside."""
    rng, out = graph.rng, list(graph.shapes[x])
    axes = rng.sample(range(1, len(out)), rng.choice((1, 1, 2)))
    rows = []
    for axis in axes:
        extent, step = out[axis], rng.choice((1, 1, 2, -1))
        begin, end = sorted((rng.randrange(extent + 1), rng.randrange(extent + 1)))
        begin, end = (0, extent) if begin == end else (begin, end)
        out[axis] = -(-(end - begin) // abs(step))
        if step < 0:
            begin, end = end - 1, begin - 1 - extent if begin == 0 else begin - 1
        elif end == extent and rng.random() < 0.5:
            end = rng.choice((2**63 - 1, extent + 5))
        named = axis - len(out) if rng.random() < 0.3 else axis
        rows.append((begin, end, named, step))
    return graph.add("Slice", [x, *(graph.ints(*row) for row in zip(*rows, strict=True))], out)


def split(graph: Graph, x: str) -> str:
    """Cut in two or three, some of them worked on, put together in another order."""
    rng, shape = graph.rng, graph.shapes[x]
    axis = rng.choice((1, 1, len(shape) - 1, rng.randrange(1, len(shape))))
    count = rng.choice((2, 2, 3))
    if shape[axis] < count:
        return x
    cuts = sorted(rng.sample(range(1, shape[axis]), count - 1))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, shape[axis]], strict=True)]
    even, more = shape[axis] % count == 0 and rng.random() < 0.5, {"axis": axis}
    inputs = [x]
    if even:
        sizes = [shape[axis] // count] * count
        more |= {"num_outputs": count} if graph.opset >= 18 else {}
    elif graph.opset >= 13:
        inputs.append(graph.ints(*sizes))
    else:
        more["split"] = sizes
    shapes = [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
    parts = graph.add_several("Split", inputs, shapes, **more)
    if rng.random() < 0.25:
        return parts[rng.randrange(count)]  # the others are not read
    if even and rng.random() < 0.4:
        return graph.add(rng.choice(("Add", "Mul", "Max")), parts[:2], shapes[0])
    worked = [
        graph.add(rng.choice(("Relu", "Sigmoid", "Neg")), [part], graph.shapes[part])
        if rng.random() < 0.5
        else part
        for part in parts
    ]
    rng.shuffle(worked)
    return graph.add("Concat", worked, shape, axis=axis)


def gathered(graph: Graph, x: str) -> str:
    """Places of one axis by constant indices, some counted from the end, some twice."""
    rng, shape = graph.rng, list(graph.shapes[x])
    axis = rng.randrange(1, len(shape))
    if rng.random() < 0.3:
        index = graph.constant(np.array(rng.randrange(-shape[axis], shape[axis]), np.int64))
        y = graph.add("Gather", [x, index], (*shape[:axis], *shape[axis + 1 :]), axis=axis)
        return graph.with_axes("Unsqueeze", y, [axis], (*shape[:axis], 1, *shape[axis + 1 :]), 13)
    indices = [rng.randrange(-shape[axis], shape[axis]) for _ in range(rng.randint(1, 6))]
    shape[axis] = len(indices)
    kind = rng.choice(("int64", "int64", "int32"))
    index = graph.constant(np.array(indices, kind))
    return graph.add("Gather", [x, index], shape, axis=axis) if fits(shape) else x


def scattered(graph: Graph, x: str) -> str:
    """Some of its first axis, or of its first two, replaced by constants."""
    rng, shape = graph.rng, graph.shapes[x]
    depth = rng.choice((1, 2))
    places = {tuple(rng.randrange(extent) for extent in shape[:depth]) for _ in range(3)}
    index = graph.constant(np.array(sorted(places), np.int64))
    values = graph.constant(normal(rng, len(places), *shape[depth:]))
    return graph.add("ScatterND", [x, index, values], shape)


def widened(graph: Graph, x: str) -> str:
    """Repeated along its axes, or its means spread over all of it again."""
    rng, shape = graph.rng, graph.shapes[x]
    if rng.random() < 0.5:
        repeats = [rng.choice((1, 1, 1, 2, 3)) for _ in shape]
        out = [extent * times for extent, times in zip(shape, repeats, strict=True)]
        return graph.add("Tile", [x, graph.ints(*repeats)], out) if fits(out) else x
    axis = rng.randrange(1, len(shape))
    small = [*shape[:axis], 1, *shape[axis + 1 :]]
    op, since = rng.choice((("ReduceMean", 18), ("ReduceMax", 18), ("ReduceSum", 13)))
    y = graph.with_axes(op, x, [axis], small, since, keepdims=1)
    wanted = [1 if rng.random() < 0.3 and i != axis else extent for i, extent in enumerate(shape)]
    y = graph.add("Expand", [y, graph.ints(*wanted)], shape)
    return graph.add("Sub", [x, y], shape) if rng.random() < 0.6 else y


def depth_to_space(graph: Graph, x: str) -> str:
    """Channels of a picture as a wider plane."""
    rng, shape = graph.rng, graph.shapes[x]
    if len(shape) != 4 or shape[1] % 4:
        return resized(graph, x)
    out = (shape[0], shape[1] // 4, 2 * shape[2], 2 * shape[3])
    more = {"mode": rng.choice(("DCR", "CRD"))} if rng.random() < 0.7 else {}
    return graph.add("DepthToSpace", [x], out, blocksize=2, **more)


def resized(graph: Graph, x: str) -> str:
    """Space in other sizes, by any rule for what lies between."""
    rng, shape = graph.rng, graph.shapes[x]
    modes = ("nearest", "nearest", "linear", "linear", *(("cubic",) if len(shape) == 4 else ()))
    mode = rng.choice(modes)
    ways = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    more: dict[str, object] = {"mode": mode, "coordinate_transformation_mode": rng.choice(ways)}
    if mode == "nearest" and rng.random() < 0.5:
        more["nearest_mode"] = rng.choice(("round_prefer_floor", "floor", "ceil"))
    nothing = graph.constant(np.zeros(0, np.float32)) if graph.opset < 13 else ""
    if rng.random() < 0.5:
        scales = [rng.choice((2.0, 2.0, 1.0, 0.5, 3.0)) for _ in shape[2:]]
        out = (*shape[:2], *(int(e * s) for e, s in zip(shape[2:], scales, strict=True)))
        inputs = [x, nothing, graph.constant(np.array([1, 1, *scales], np.float32))]
    else:
        out = (*shape[:2], *(rng.randint(1, 2 * extent) for extent in shape[2:]))
        inputs = [x, nothing, nothing, graph.ints(*out)]
    return graph.add("Resize", inputs, out, **more) if fits(out) else x
