"""Blocks of convolutions, as networks have them, and classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from random import Random

import numpy as np
from onnx import helper

from scripts.fuzz.graph import MOST_ELEMENTS, MOST_MACS, Graph
from scripts.fuzz.operators import activation, global_mean
from scripts.fuzz.weights import conv_weight, normal

FILTERS = (1, 2, 3, 4, 5, 7, 8, 8, 12, 13, 16, 16, 17, 24, 32, 33, 45, 64)


def conv(
    graph: Graph,
    x: str,
    *,
    filters: int | None = None,
    kernel: Sequence[int] | None = None,
    same: bool = False,
    groups: int = 1,
) -> str:
    """A convolution of any geometry that fits, or one that keeps the ``same`` extents."""
    rng, (batch, channels, *extents) = graph.rng, graph.shapes[x]
    axes = range(len(extents))
    filters = filters or rng.choice((*FILTERS, channels))
    filters = max(groups, filters // groups * groups)
    kernel = list(kernel) if kernel else _kernel(rng, len(extents))
    if same:
        kernel = [k if k % 2 else k + 1 for k in kernel]
        strides, dilations = [1] * len(extents), [1] * len(extents)
        pads = [k // 2 for k in kernel] * 2
    else:
        strides = [rng.choice((1, 1, 1, 2, 3)) for _ in axes]
        dilations = [rng.choice((1, 1, 1, 2)) for _ in axes]
        pads = [rng.choice((0, 1, 1, kernel[i % len(kernel)] // 2, 2)) for i in [*axes, *axes]]
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    for i in axes:  # the window has to fit
        lack = spans[i] - extents[i] - pads[i] - pads[i + len(extents)]
        pads[i] += max(0, lack)
    wide = [extents[i] + pads[i] + pads[i + len(extents)] for i in axes]
    out = [(wide[i] - spans[i]) // strides[i] + 1 for i in axes]
    shape = (filters, channels // groups, *kernel)
    results = batch * filters * prod(out)
    if results * prod(shape[1:]) > MOST_MACS or results > MOST_ELEMENTS:
        one = [1] * len(extents)
        if kernel == one:
            return x
        filters = min(filters, 4 * groups)
        return conv(graph, x, filters=filters, kernel=one, same=True, groups=groups)
    inputs = [x, graph.constant(conv_weight(rng, *shape))]
    if rng.random() < 0.7:
        inputs.append(graph.constant(normal(rng, filters) / 2))
    attributes = {"strides": strides, "dilations": dilations, "pads": pads, "kernel_shape": kernel}
    for name in [name for name in attributes if name != "pads" and rng.random() < 0.5]:
        if name == "kernel_shape" or set(attributes[name]) == {1}:
            del attributes[name]  # the default says the same
    if groups > 1 or rng.random() < 0.2:
        attributes["group"] = groups
    return graph.add("Conv", inputs, (batch, filters, *out), **attributes)


def _kernel(rng: Random, axes: int) -> list[int]:
    kind = rng.choice(("one", "cube", "plane", "depth", "any", "any"))
    size = rng.choice((2, 3, 3, 3, 5))
    kernel = {
        "one": [1, 1, 1],
        "cube": [min(size, 3)] * 3,
        "plane": [1, size, size],
        "depth": [size, 1, 1],
        "any": [rng.choice((1, 2, 3, 4)) for _ in range(3)],
    }[kind]
    return kernel[3 - axes :]


def grouped(graph: Graph, x: str) -> str:
    """A convolution in groups, often one a channel."""
    channels = graph.shapes[x][1]
    divisors = [n for n in range(2, channels + 1) if channels % n == 0] or [1]
    groups = channels if graph.rng.random() < 0.5 else graph.rng.choice(divisors)
    filters = groups * graph.rng.choice((1, 1, 2, 3))
    return conv(graph, x, filters=min(filters, max(groups, 256)), groups=groups)


def conv_transpose(graph: Graph, x: str) -> str:
    """A transposed convolution, as decoders have it; often one that doubles the extents."""
    rng, (batch, channels, *extents) = graph.rng, graph.shapes[x]
    axes = range(len(extents))
    divisors = [n for n in range(1, channels + 1) if channels % n == 0]
    groups = rng.choice(divisors) if rng.random() < 0.25 else 1
    filters = groups * rng.choice((1, 2, 5, 8, 16))
    kernel, strides = (
        [rng.choice((1, 2, 3, 4)) for _ in axes],
        [rng.choice((1, 2, 2, 3))] * len(axes),
    )
    pads = [rng.choice((0, 0, (k - 1) // 2)) for k in [*kernel, *kernel]]
    more = [rng.randrange(s) if rng.random() < 0.3 else 0 for s in strides]
    out = [
        (extents[i] - 1) * strides[i] + kernel[i] + more[i] - pads[i] - pads[i + len(axes)]
        for i in axes
    ]
    results, shape = batch * filters * prod(out), (channels, filters // groups, *kernel)
    if min(out) < 1 or results > MOST_ELEMENTS or batch * prod(extents) * prod(shape) > MOST_MACS:
        return x
    weight = conv_weight(rng, filters, channels // groups, *kernel)
    weight = weight.reshape(groups, shape[1], channels // groups, *kernel).swapaxes(1, 2)
    inputs = [x, graph.constant(np.ascontiguousarray(weight).reshape(shape))]
    if rng.random() < 0.6:
        inputs.append(graph.constant(normal(rng, filters) / 2))
    attributes: dict[str, object] = {"strides": strides, "group": groups, "kernel_shape": kernel}
    attributes |= {"pads": pads} if any(pads) else {}
    attributes |= {"output_padding": more} if any(more) else {}
    y = f"t{len(graph.nodes)}"
    graph.nodes.append(helper.make_node("ConvTranspose", inputs, [y], **attributes))
    graph.shapes[y] = (batch, filters, *out)
    return y


def wide_window(graph: Graph, x: str) -> str:
    """3x3 windows over H and W, dense or not, as Winograd's transforms take them."""
    filters = graph.rng.choice((8, 16, 24, 32, 45, 64))
    axes = len(graph.shapes[x]) - 2
    kernel = [graph.rng.choice((1, 1, 2, 3)), 3, 3][3 - axes :]
    return conv(graph, x, filters=filters, kernel=kernel, same=graph.rng.random() < 0.8)


def pair(graph: Graph, x: str) -> str:
    """1x3x3, then 3x1x1, as R(2+1)D and S3D are built."""
    if len(graph.shapes[x]) < 5:
        return wide_window(graph, x)
    rng = graph.rng
    filters = rng.choice((8, 16, 24, 45, 64, 144))
    middle = conv(graph, x, filters=filters, kernel=[1, 3, 3], same=rng.random() < 0.7)
    if rng.random() < 0.8:
        middle = activation(graph, middle)
    last = rng.choice((8, 16, 24, 32, 45))
    size = rng.choice((3, 3, 3, 5, 2))
    y = conv(graph, middle, filters=last, kernel=[size, 1, 1], same=rng.random() < 0.7)
    if rng.random() < 0.2 and graph.shapes[y] == graph.shapes[middle]:
        return graph.add("Add", [y, middle], graph.shapes[y])  # the middle is read twice
    return y


def residual(graph: Graph, x: str) -> str:
    """One or two convolutions and what they read, added up."""
    rng, channels = graph.rng, graph.shapes[x][1]
    y = conv(graph, x, filters=channels, same=True)
    if rng.random() < 0.5:
        y = conv(graph, activation(graph, y), filters=channels, same=True)
    if graph.shapes[y] != graph.shapes[x]:
        return y
    both = [x, y] if rng.random() < 0.5 else [y, x]
    y = graph.add("Add", both, graph.shapes[x])
    return activation(graph, y) if rng.random() < 0.7 else y


def branches(graph: Graph, x: str) -> str:
    """Two or three ways from one tensor, side by side along the channels."""
    rng, ways = graph.rng, []
    for _ in range(rng.choice((2, 2, 3))):
        way = conv(graph, x, filters=rng.choice(FILTERS), same=True) if rng.random() < 0.8 else x
        ways.append(activation(graph, way) if rng.random() < 0.6 else way)
    shapes = [graph.shapes[way] for way in ways]
    channels = sum(shape[1] for shape in shapes)
    if channels * prod(shapes[0]) // shapes[0][1] > MOST_ELEMENTS:
        return ways[0]
    axis = rng.choice((1, 1 - len(shapes[0])))
    return graph.add("Concat", ways, (shapes[0][0], channels, *shapes[0][2:]), axis=axis)


def gate(graph: Graph, x: str) -> str:
    """x times a sigmoid: of itself, or of its means by one or two convolutions."""
    rng, shape = graph.rng, graph.shapes[x]
    sigmoid = rng.choice(("Sigmoid", "HardSigmoid"))
    if rng.random() < 0.3:
        return graph.add("Mul", [x, graph.add(sigmoid, [x], shape)], shape)
    means = global_mean(graph, x)
    if rng.random() < 0.6:
        means = conv(graph, means, filters=rng.choice((1, 4, 8)), kernel=[1] * (len(shape) - 2))
        means = activation(graph, means)
    scale = conv(graph, means, filters=shape[1], kernel=[1] * (len(shape) - 2), same=True)
    if graph.shapes[scale][1:] != (shape[1], *[1] * (len(shape) - 2)):
        return x
    both = [x, graph.add(sigmoid, [scale], graph.shapes[scale])]
    return graph.add("Mul", both if rng.random() < 0.7 else both[::-1], shape)


def head(graph: Graph, x: str) -> str:
    """A classifier: means or all elements, one or two fully connected layers, seldom a softmax."""
    rng, (batch, channels, *extents) = graph.rng, graph.shapes[x]
    if channels * prod(extents) > 600 or rng.random() < 0.6:
        if rng.random() < 0.5:
            axes = list(range(2, 2 + len(extents)))
            y = graph.with_axes("ReduceMean", x, axes, (batch, channels), 18, keepdims=0)
        else:
            y = graph.add("Flatten", [global_mean(graph, x)], (batch, channels))
    elif rng.random() < 0.5:
        y = graph.add("Flatten", [x], (batch, channels * prod(extents)))
    else:
        wanted = graph.ints(rng.choice((0, batch)), -1)
        y = graph.add("Reshape", [x, wanted], (batch, channels * prod(extents)))
    for last in (True,) if rng.random() < 0.6 else (False, True):
        y = fully_connected(graph, y)
        y = y if last else activation(graph, y)
    return graph.add("Softmax", [y], graph.shapes[y], axis=1) if rng.random() < 0.3 else y


def fully_connected(graph: Graph, x: str) -> str:
    """Gemm, or MatMul and perhaps Add."""
    rng, (batch, features) = graph.rng, graph.shapes[x]
    classes = rng.choice((1, 5, 10, 16, 33, 101))
    weight = conv_weight(rng, classes, features)
    bias = normal(rng, classes)
    if rng.random() < 0.5:
        transposed_ = rng.random() < 0.7
        inputs = [x, graph.constant(weight if transposed_ else weight.T.copy())]
        if rng.random() < 0.8:
            inputs.append(graph.constant(bias))
        more = {"alpha": 0.5, "beta": 2.0} if rng.random() < 0.2 else {}
        return graph.add("Gemm", inputs, (batch, classes), transB=int(transposed_), **more)
    y = graph.add("MatMul", [x, graph.constant(weight.T.copy())], (batch, classes))
    if rng.random() < 0.5:
        return y
    return graph.add("Add", [y, graph.constant(bias)], (batch, classes))
