"""Blocks that sum up or choose along axes, and normalise by what they find there."""

from __future__ import annotations

from math import prod

import numpy as np
from onnx import TensorProto

from scripts.fuzz.graph import MOST_MACS, Graph, fits
from scripts.fuzz.operators import activation
from scripts.fuzz.weights import conv_weight, normal

# The opset since which its axes are an input.
_SINCE = {
    "ReduceSum": 13,
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceMean"), 18),
}


def reduced(graph: Graph, x: str) -> str:
    """One value for all along some axes; they stay with one element."""
    rng, shape = graph.rng, list(graph.shapes[x])
    op = rng.choice(list(_SINCE))
    axes = sorted(rng.sample(range(1, len(shape)), rng.randint(1, len(shape) - 1)))
    for axis in axes:
        shape[axis] = 1
    given = [axis - len(shape) if rng.random() < 0.3 else axis for axis in axes]
    if rng.random() < 0.3:  # without them, and then with them again
        less = [extent for axis, extent in enumerate(shape) if axis not in axes]
        y = graph.with_axes(op, x, given, less, _SINCE[op], keepdims=0)
        return graph.with_axes("Unsqueeze", y, axes, shape, 13)
    return graph.with_axes(op, x, given, shape, _SINCE[op], keepdims=1)


def chosen(graph: Graph, x: str) -> str:
    """The first few along an axis; seldom where the largest is, as a number of the graph."""
    rng, shape = graph.rng, list(graph.shapes[x])
    axis = rng.randrange(1, len(shape))
    if rng.random() < 0.3:
        shape[axis] = 1
        kept = {"keepdims": 1} if rng.random() < 0.5 else {}
        y = graph.add("ArgMax", [x], shape, axis=axis, **kept)
        return graph.add("Cast", [y], shape, to=TensorProto.FLOAT)
    shape[axis] = rng.randint(1, shape[axis])
    count, more = graph.ints(shape[axis]), {"largest": rng.choice((0, 1)), "axis": axis}
    return graph.add_several("TopK", [x, count], [shape, shape], **more)[0]


def normalised(graph: Graph, x: str) -> str:
    """By the mean and variance of each channel, of groups of them, or of the last axes."""
    rng, shape = graph.rng, graph.shapes[x]
    channels, kinds = shape[1], ["Instance", "Instance"]
    kinds += ["Group", "Group"] if graph.opset >= 21 else []
    kinds += ["Layer", "Layer"] if graph.opset >= 17 else []
    kind, more = rng.choice(kinds), {"epsilon": rng.choice((1e-5, 1e-3, 0.1))}
    size: tuple[int, ...] = (channels,)
    if prod(shape[2:]) < 4:
        return activation(graph, x)  # of one value the variance is what rounds off
    if kind == "Group":
        groups = rng.choice([n for n in range(1, channels + 1) if channels % n == 0])
        more["num_groups"] = groups
    if kind == "Layer":
        axis = rng.randrange(1, len(shape))
        size = shape[axis:]
        more["axis"] = axis - len(shape) if rng.random() < 0.5 else axis
        if prod(size) < 4:
            return activation(graph, x)
    inputs = [x, graph.constant(normal(rng, *size)), graph.constant(normal(rng, *size))]
    if kind == "Layer" and rng.random() < 0.3:
        inputs.pop()
    return graph.add(f"{kind}Normalization", inputs, shape, **more)


def einsum(graph: Graph, x: str) -> str:
    """A product with a matrix, written as letters."""
    rng, (batch, channels, *extents) = graph.rng, graph.shapes[x]
    if graph.opset < 12:
        return activation(graph, x)
    many = rng.choice((1, 4, 7, 16))
    space = "thw"[: len(extents)]
    weight = graph.constant(conv_weight(rng, channels, many))
    out = (batch, many, *extents)
    if not fits(out) or prod(out) * channels > MOST_MACS:
        return x
    if rng.random() < 0.3:
        space = "..."
    return graph.add("Einsum", [x, weight], out, equation=f"bc{space},cd->bd{space}")


def attention(graph: Graph, x: str) -> str:
    """Of positions on channels: two products of activations, and a softmax between them."""
    rng, shape = graph.rng, graph.shapes[x]
    batch, channels, places = shape[0], shape[1], prod(shape[2:])
    if batch * channels * channels * places > MOST_MACS or not fits((batch, channels, channels)):
        return x
    flat = graph.add("Reshape", [x, graph.ints(batch, channels, places)], (batch, channels, places))
    scale = graph.constant(np.float32(1 / places))
    square = (batch, channels, channels)
    if graph.opset >= 12 and rng.random() < 0.3:
        y = graph.add("Einsum", [flat, flat], square, equation="bcn,bdn->bcd")
    else:
        turned = graph.add("Transpose", [flat], (batch, places, channels), perm=[0, 2, 1])
        y = graph.add("MatMul", [flat, turned], square)
    y = graph.add("Softmax", [graph.add("Mul", [y, scale], square)], square, axis=2)
    y = graph.add("MatMul", [y, flat], (batch, channels, places))
    return graph.add("Reshape", [y, graph.ints(*shape)], shape)
