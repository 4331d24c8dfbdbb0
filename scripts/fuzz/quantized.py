"""Random blocks of quantised graphs: pairs of conversions, and layers between them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from random import Random

import numpy as np

from scripts.fuzz.graph import MOST_ELEMENTS, MOST_MACS, Graph
from scripts.fuzz.weights import conv_weight, normal

# Since this opset DequantizeLinear has an axis.
_AXIS_OPSET = 13
# Scales that activations of about one need, with the zero points that go with them.
_USUAL = ((0.03, "int8", 0), (0.03, "uint8", 128), (0.02, "uint8", 0), (0.05, "int8", -7))


def conversions(graph: Graph, x: str) -> str:
    """To 8 bit and back, by any scale and zero point; much may be cut off."""
    rng = graph.rng
    kind, zeros = rng.choice((("uint8", (0, 3, 128, 255)), ("int8", (0, -128, 5, 127))))
    return _converted(graph, x, rng.choice((0.013, 0.05, 0.3, 1e-6)), kind, rng.choice(zeros))


def usual(graph: Graph, x: str) -> str:
    """To 8 bit and back, as a quantiser would choose it; mostly nothing is cut off."""
    return _converted(graph, x, *graph.rng.choice(_USUAL))


def _converted(graph: Graph, x: str, scale: float, kind: str, zero: int) -> str:
    shape = graph.shapes[x]
    names = [graph.constant(np.float32(scale)), graph.constant(np.array(zero, kind))]
    q = graph.add("QuantizeLinear", [x, *names], shape)
    return _dequantized(graph, q, *names, scale, kind)


def _dequantized(graph: Graph, q: str, scale: str, zero: str, value: float, kind: str) -> str:
    y = graph.add("DequantizeLinear", [q, scale, zero], graph.shapes[q])
    graph.stored[y] = (q, scale, zero, value, kind)
    return y


def quantized_conv(graph: Graph, x: str) -> str:
    """A convolution of 8-bit tensors; often with a residual, and a ReLU before it is rounded.

    Dense, in groups, or of a channel each.
    """
    rng, channels = graph.rng, graph.shapes[x][1]
    convert = conversions if rng.random() < 0.3 else usual
    x = convert(graph, x) if x not in graph.stored or rng.random() < 0.2 else x
    filters = rng.choice((channels, channels, 5, 16, 45))
    kernel = [rng.choice((1, 3)) for _ in graph.shapes[x][2:]]
    y = _layer(graph, x, filters, kernel, groups=_groups(rng, channels, filters))
    if y == x:
        return x
    y = y if y in graph.stored else convert(graph, _clipped(graph, y))
    if graph.shapes[y] == graph.shapes[x] and rng.random() < 0.4:
        y = convert(graph, _clipped(graph, graph.add("Add", [y, x], graph.shapes[y])))
    return y


def quantized_pair(graph: Graph, x: str) -> str:
    """Two layers: 1x3x3 and 3x1x1, or 3x3 of a channel each and 1x1 of all, as MobileNets have."""
    rng, shape = graph.rng, graph.shapes[x]
    axes = len(shape) - 2
    x = x if x in graph.stored else usual(graph, x)
    if rng.random() < 0.5 and axes == 3:
        ways = [([1, 3, 3], rng.choice((8, 16, 45)), 1), ([3, 1, 1], rng.choice((8, 16, 24)), 1)]
    else:
        ways = [([3] * axes, shape[1], shape[1]), ([1] * axes, rng.choice((8, 16, 24, 33)), 1)]
    for kernel, filters, groups in ways:
        y = _layer(graph, x, filters, kernel, groups=groups, stride=rng.choice((1, 1, 1, 2)))
        if y == x:
            return x
        x = y if y in graph.stored else usual(graph, _clipped(graph, y))
    return x


def quantized_pool(graph: Graph, x: str) -> str:
    """A pool or mean of a dequantised tensor, and back to 8 bits."""
    rng, (batch, channels, *extents) = graph.rng, graph.shapes[x]
    x = x if x in graph.stored else usual(graph, x)
    kind = rng.choice(("MaxPool", "AveragePool", "GlobalAveragePool"))
    if kind == "GlobalAveragePool":
        return usual(graph, graph.add(kind, [x], (batch, channels, *[1] * len(extents))))
    kernel = [min(2, extent) for extent in extents]
    out = [extent // size for extent, size in zip(extents, kernel, strict=True)]
    y = graph.add(kind, [x], (batch, channels, *out), kernel_shape=kernel, strides=kernel)
    return usual(graph, y)


def quantized_other(graph: Graph, x: str) -> str:
    """Whatever else stands between two conversions of quantised networks."""
    rng, shape = graph.rng, graph.shapes[x]
    x = x if x in graph.stored else usual(graph, x)
    kind = rng.choice(("Concat", "Mul", "Sigmoid", "HardSwish", "Transpose", "Identity"))
    if kind == "Concat" and 2 * prod(shape) <= MOST_ELEMENTS:
        other = usual(graph, _clipped(graph, x))
        return usual(
            graph, graph.add(kind, [x, other], (shape[0], 2 * shape[1], *shape[2:]), axis=1)
        )
    if kind == "Mul":
        scale = usual(
            graph, graph.add("GlobalAveragePool", [x], (*shape[:2], *[1] * len(shape[2:])))
        )
        return usual(graph, graph.add(kind, [x, scale], shape))
    if kind == "Transpose":
        order = [0, 1, *range(len(shape) - 1, 1, -1)]
        return usual(graph, graph.add(kind, [x], [shape[axis] for axis in order], perm=order))
    kind = "Relu" if kind == "Concat" or (kind == "HardSwish" and graph.opset < 14) else kind
    return usual(graph, graph.add(kind, [x], shape))


def quantized_network(graph: Graph, x: str) -> str:
    """Layers that stay in 8 bits from the first to the last."""
    blocks = (quantized_conv, quantized_conv, quantized_pair, quantized_pool, quantized_other)
    for _ in range(graph.rng.randint(2, 4)):
        x = graph.rng.choice(blocks)(graph, x)
    return x


def _groups(rng: Random, channels: int, filters: int) -> int:
    if filters != channels or rng.random() < 0.5:
        return 1
    divisors = [n for n in range(2, channels + 1) if channels % n == 0] or [1]
    return channels if rng.random() < 0.6 else rng.choice(divisors)


def _clipped(graph: Graph, x: str) -> str:
    kind = graph.rng.choice(("Relu", "Clip", "", ""))
    if kind == "Clip":
        limits = [graph.constant(np.float32(value)) for value in (0, 6)]
        return graph.add("Clip", [x, *limits], graph.shapes[x])
    return graph.add(kind, [x], graph.shapes[x]) if kind else x


def _layer(
    graph: Graph, x: str, filters: int, kernel: Sequence[int], *, groups: int, stride: int = 1
) -> str:
    """A convolution of a dequantised tensor with a dequantised weight, or QLinearConv.

    x itself where it would be too large.
    """
    rng, (batch, channels, *extents) = graph.rng, graph.shapes[x]
    seen, strides = channels // groups, [stride] * len(extents)
    out = [(extent - 1) // stride + 1 for extent in extents]
    results = batch * filters * prod(out)
    if results > MOST_ELEMENTS or results * seen * prod(kernel) > MOST_MACS:
        return x
    stored, scales, zeros = _weight(graph, filters, seen, kernel)
    attributes = {"group": groups, "strides": strides, "kernel_shape": list(kernel)}
    attributes["pads"] = [k // 2 for k in kernel] * 2
    q, scale, zero, value, kind = graph.stored[x]
    bias = np.rint(normal(rng, filters) / (2 * value * scales)).clip(-1e8, 1e8).astype("int32")
    shape = (batch, filters, *out)
    if rng.random() < 0.15 and zeros.dtype == "int8":
        # ONNX Runtime has it of one type only.
        step, _, point = rng.choice([row for row in _USUAL if row[1] == kind])
        ends = [graph.constant(np.float32(step)), graph.constant(np.array(point, kind))]
        weight = [graph.constant(each) for each in (stored, scales, zeros)]
        biases = [graph.constant(bias)] if rng.random() < 0.7 else []
        y = graph.add("QLinearConv", [q, scale, zero, *weight, *ends, *biases], shape, **attributes)
        return _dequantized(graph, y, *ends, step, kind)
    more = {"axis": 0} if scales.ndim else {}
    parts = [graph.constant(each) for each in (stored, scales, zeros)]
    inputs = [x, graph.add("DequantizeLinear", parts, stored.shape, **more)]
    if rng.random() < 0.7:
        parts = [graph.constant(bias), graph.constant(np.float32(value) * scales)]
        inputs.append(graph.add("DequantizeLinear", parts, bias.shape, **more))
    return graph.add("Conv", inputs, shape, **attributes)


def _weight(
    graph: Graph, filters: int, channels: int, kernel: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weight in 8 bits, its scale for all or for each filter, the zero points."""
    rng = graph.rng
    real = conv_weight(rng, filters, channels, *kernel)
    shape = (filters, *(1,) * (real.ndim - 1))
    scale = abs(real).reshape(filters, -1).max(axis=1) / 127 + np.float32(1e-8)
    per_filter = graph.opset >= _AXIS_OPSET and rng.random() < 0.7
    if not per_filter:
        scale = scale.max()
    stored = np.rint(real / (scale.reshape(shape) if per_filter else scale))
    kind, zero = ("uint8", 128) if rng.random() < 0.1 else ("int8", 0)
    scale = np.asarray(scale, "float32")
    return (stored + zero).astype(kind), scale, np.full(scale.shape, zero, kind)
