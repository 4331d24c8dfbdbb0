"""Blocks of every accepted operator but convolutions: pools, elements, shapes."""

from __future__ import annotations

from math import ceil, prod

import numpy as np

from scripts.fuzz.graph import MOST_ELEMENTS, Graph
from scripts.fuzz.weights import normal

# --- Pools


def pool(graph: Graph, x: str) -> str:
    """The maximum or mean of windows, some that reach over the border."""
    rng, (batch, channels, *extents) = graph.rng, graph.shapes[x]
    op = rng.choice(("MaxPool", "MaxPool", "AveragePool"))
    kernel = [min(rng.choice((1, 2, 2, 3, 3)), extent) for extent in extents]
    strides = [rng.choice((1, 2, 2, 3)) for _ in extents]
    pads = [rng.choice((0, 0, k // 2)) for k in kernel * 2]
    attributes: dict[str, object] = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    spans = kernel
    if rng.random() < 0.15 and (op == "MaxPool" or graph.opset >= 19):
        dilations = [rng.choice((1, 2)) for _ in kernel]
        spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        attributes["dilations"] = dilations
    if rng.random() < 0.4:
        attributes["ceil_mode"] = 1
    if op == "AveragePool" and rng.random() < 0.5:
        attributes["count_include_pad"] = rng.choice((0, 1))
    wide = [extents[i] + pads[i] + pads[i + len(extents)] for i in range(len(extents))]
    rounding = ceil if "ceil_mode" in attributes else int
    out = [rounding((wide[i] - spans[i]) / strides[i]) + 1 for i in range(len(extents))]
    # Whether a window that lies wholly behind the data counts changed with the opsets, and ONNX
    # Runtime has one rule for all.
    if any(
        wide[i] < spans[i] or (out[i] - 1) * strides[i] >= extents[i] + pads[i]
        for i in range(len(extents))
    ):
        return x
    return graph.add(op, [x], (batch, channels, *out), **attributes)


def global_mean(graph: Graph, x: str) -> str:
    """The mean of each channel, in one of two ways."""
    batch, channels, *extents = graph.shapes[x]
    shape = (batch, channels, *[1] * len(extents))
    if graph.rng.random() < 0.5:
        return graph.add("GlobalAveragePool", [x], shape)
    axes = list(range(2, 2 + len(extents)))
    return graph.with_axes("ReduceMean", x, axes, shape, 18, keepdims=1)


def mean(graph: Graph, x: str) -> str:
    """The mean over some axes, which stay with one element."""
    shape = list(graph.shapes[x])
    axes = sorted(graph.rng.sample(range(1, len(shape)), graph.rng.randint(1, 2)))
    for axis in axes:
        shape[axis] = 1
    given = [axis - len(shape) if graph.rng.random() < 0.3 else axis for axis in axes]
    return graph.with_axes("ReduceMean", x, given, shape, 18, keepdims=1)


# --- Element by element


def activation(graph: Graph, x: str) -> str:
    """One of all functions of one element."""
    rng, shape = graph.rng, graph.shapes[x]
    op = rng.choice(("Relu", "Relu", "Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu",
                     "HardSigmoid", "HardSwish", "Identity", "Dropout"))  # fmt: skip
    if op == "Clip":
        low, high = rng.choice((("0", "6"), ("0", ""), ("", "1"), ("-0.5", "0.5"), ("-1", "1")))
        limits = [graph.constant(np.float32(text)) if text else "" for text in (low, high)]
        return graph.add(op, [x, *(limits if high else limits[:1])], shape)
    attributes: dict[str, float] = {}
    if op == "LeakyRelu" and rng.random() < 0.7:
        attributes["alpha"] = rng.choice((0.1, 0.3))
    if op == "HardSigmoid" and rng.random() < 0.7:
        attributes["alpha"] = 1 / 6
    if op == "HardSwish" and graph.opset < 14:
        op = "Relu"
    return graph.add(op, [x], shape, **attributes)


def with_constant(graph: Graph, x: str) -> str:
    """x and a constant of a shape that ONNX spreads over it."""
    rng, shape = graph.rng, graph.shapes[x]
    rank, channels = len(shape), shape[1]
    per_channel = (channels, *[1] * (rank - 2))
    of = rng.choice(((), (1,), per_channel, (1, *per_channel), shape[1:], shape, shape[-1:]))
    op = rng.choice(("Add", "Sub", "Mul", "Div"))
    value = normal(rng, *of)
    if op == "Div":
        return graph.add(op, [x, graph.constant(abs(value) + np.float32(0.5))], shape)
    both = [x, graph.constant(value)]
    return graph.add(op, both if rng.random() < 0.7 else both[::-1], shape)


def repeated(graph: Graph, x: str) -> str:
    """y + y or x sigmoid(x) many times in a row: what is read twice must not be compiled twice."""
    rng, shape = graph.rng, graph.shapes[x]
    for _ in range(rng.choice((2, 3, 5, 8, 16))):
        if rng.random() < 0.5:
            half = graph.add("Mul", [x, graph.constant(np.float32(0.5))], shape)
            x = graph.add("Add", [half, half], shape)
        else:
            x = graph.add("Mul", [x, graph.add("Sigmoid", [x], shape)], shape)
    return x


def batch_norm(graph: Graph, x: str) -> str:
    """Normalised by stored statistics."""
    rng, channels = graph.rng, graph.shapes[x][1]
    vectors = [normal(rng, channels) for _ in range(4)]
    vectors[3] = abs(vectors[3]) + np.float32(0.5)
    names = [graph.constant(vector) for vector in vectors]
    more = {"epsilon": 1e-3} if rng.random() < 0.5 else {}
    return graph.add("BatchNormalization", [x, *names], graph.shapes[x], **more)


def softmax(graph: Graph, x: str) -> str:
    """Along one axis; before opset 13 along all from that axis on."""
    axis = graph.rng.choice((1, -1, len(graph.shapes[x]) - 1))
    return graph.add("Softmax", [x], graph.shapes[x], axis=axis)


# --- Shapes


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
