"""Blocks of pools and of what is computed element by element."""

from __future__ import annotations

from math import ceil

import numpy as np
from onnx import TensorProto

from scripts.fuzz.graph import Graph
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
        op = "GlobalMaxPool" if graph.rng.random() < 0.2 else "GlobalAveragePool"
        return graph.add(op, [x], shape)
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


# Functions of one element, as often as networks have them; since which opset, if not all.
_ACTIVATIONS = (
    *("Relu", "Relu", "Relu", "Relu", "Clip", "Clip", "Sigmoid", "Sigmoid", "Tanh", "LeakyRelu"),
    *("HardSigmoid", "HardSwish", "Identity", "Dropout", "Elu", "Selu", "PRelu", "Mish", "Gelu"),
    *("Softplus", "Erf", "Abs", "Neg"),
)
_SINCE = {"HardSwish": 14, "Mish": 18, "Gelu": 20}
_ALPHAS = {"LeakyRelu": (0.1, 0.3), "HardSigmoid": (1 / 6,), "Elu": (0.3, 1.5), "Selu": (1.2,)}


def activation(graph: Graph, x: str) -> str:
    """One of all functions of one element."""
    rng, shape = graph.rng, graph.shapes[x]
    op = rng.choice(_ACTIVATIONS)
    if graph.opset < _SINCE.get(op, 0):
        op = "Relu"
    if op == "Clip":
        low, high = rng.choice((("0", "6"), ("0", ""), ("", "1"), ("-0.5", "0.5"), ("-1", "1")))
        limits = [graph.constant(np.float32(text)) if text else "" for text in (low, high)]
        return graph.add(op, [x, *(limits if high else limits[:1])], shape)
    if op == "PRelu":
        per_channel = (shape[1], *[1] * (len(shape) - 2))
        slope = normal(rng, *rng.choice(((1,), per_channel, (1, *per_channel), shape[1:])))
        return graph.add(op, [x, graph.constant(slope)], shape)
    attributes: dict[str, object] = {}
    if op in _ALPHAS and rng.random() < 0.7:
        attributes["alpha"] = rng.choice(_ALPHAS[op])
    if op == "Gelu" and rng.random() < 0.5:
        attributes["approximate"] = "tanh"
    return graph.add(op, [x], shape, **attributes)


def function(graph: Graph, x: str) -> str:
    """One that is defined for some numbers, or grows fast: of what is within its bounds."""
    rng, shape = graph.rng, graph.shapes[x]
    op = rng.choice(("Exp", "Log", "Sqrt", "Reciprocal", "Pow", "Pow", "Cast"))
    if op == "Cast":  # there and back
        to = rng.choice((TensorProto.FLOAT16, TensorProto.DOUBLE))
        return graph.add(op, [graph.add(op, [x], shape, to=to)], shape, to=TensorProto.FLOAT)
    if op in ("Exp", "Pow"):
        limits = [graph.constant(np.float32(value)) for value in (-3, 2)]
        x = graph.add("Clip", [x, *limits], shape)
    if op == "Exp":
        return graph.add(op, [x], shape)
    exponent = rng.choice((2.0, 3.0, 0.5, -1.5))
    if op != "Pow" or exponent not in (2.0, 3.0):
        x = graph.add("Abs", [x], shape)
        x = graph.add("Add", [x, graph.constant(np.float32(0.5))], shape)
    if op == "Pow":
        return graph.add(op, [x, graph.constant(np.float32(exponent))], shape)
    return graph.add(op, [x], shape)


def several(graph: Graph, x: str) -> str:
    """The largest, smallest or sum of two or three tensors, one perhaps of a value per channel."""
    rng, shape = graph.rng, graph.shapes[x]
    others = [activation(graph, x)]
    if rng.random() < 0.6:
        per_channel = (shape[1], *[1] * (len(shape) - 2))
        value = normal(rng, *rng.choice(((), per_channel, shape[-1:], shape)))
        others.append(graph.constant(value))
    rng.shuffle(others)
    op = rng.choice(("Max", "Min", "Sum", "Add", "Sub", "Mul"))
    return graph.add(op, [x, *(others if op in ("Max", "Min", "Sum") else others[:1])], shape)


def compared(graph: Graph, x: str) -> str:
    """Chosen element by element, by a comparison or by a constant."""
    rng, shape = graph.rng, graph.shapes[x]
    of = rng.choice(((), shape[-1:], (shape[1], *[1] * (len(shape) - 2))))
    kind = rng.choice(("Greater", "Less", "Equal", "constant"))
    if kind == "constant":
        mask = graph.constant(normal(rng, *of) > 0)
    elif kind == "Equal":
        whole = graph.constant(np.arange(shape[-1], dtype="int64"))
        mask = graph.add(kind, [whole, graph.ints(rng.randrange(shape[-1]))], shape[-1:])
    else:
        mask = graph.add(kind, [x, graph.constant(normal(rng, *of))], shape)
    other = graph.constant(normal(rng, *of)) if rng.random() < 0.5 else activation(graph, x)
    both = [x, other] if rng.random() < 0.5 else [other, x]
    return graph.add("Where", [mask, *both], shape)


def second_input(graph: Graph, x: str) -> str:
    """Joined with another input of the model, of the same shape or of one that is spread."""
    rng, shape = graph.rng, graph.shapes[x]
    if len(graph.inputs) > 2:
        return activation(graph, x)
    of = rng.choice((shape, shape, (shape[0], shape[1], *[1] * (len(shape) - 2)), shape[-1:]))
    y = graph.input(of)
    both = [x, y] if rng.random() < 0.5 else [y, x]
    return graph.add(rng.choice(("Add", "Sub", "Mul", "Max")), both, shape)


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
    op = graph.rng.choice(("Softmax", "Softmax", "LogSoftmax"))
    return graph.add(op, [x], graph.shapes[x], axis=axis)
