"""Random blocks of quantised graphs: pairs of conversions, and convolutions between them."""

from __future__ import annotations

from math import prod

import numpy as np

from scripts.fuzz.graph import MOST_ELEMENTS, MOST_MACS, Graph
from scripts.fuzz.weights import conv_weight

# Since this opset DequantizeLinear has an axis.
_AXIS_OPSET = 13


def conversions(graph: Graph, x: str) -> str:
    """To 8 bit and back, by any scale and zero point; much may be cut off."""
    rng, shape = graph.rng, graph.shapes[x]
    scale = graph.constant(np.float32(rng.choice((0.013, 0.05, 0.3, 1e-6))))
    kind, zeros = rng.choice((("uint8", (0, 3, 128, 255)), ("int8", (0, -128, 5, 127))))
    zero = graph.constant(np.array(rng.choice(zeros), kind))
    q = graph.add("QuantizeLinear", [x, scale, zero], shape)
    return graph.add("DequantizeLinear", [q, scale, zero], shape)


def quantized_conv(graph: Graph, x: str) -> str:
    """A convolution of 8-bit tensors; often with a residual, and a ReLU before it is rounded.

    Of those that have as many filters as channels, some see a channel each.
    """
    rng, (batch, channels, *extents) = graph.rng, graph.shapes[x]
    filters = rng.choice((channels, channels, 5, 16, 45))
    kernel = [rng.choice((1, 3)) for _ in extents]
    groups = channels if filters == channels and rng.random() < 0.4 else 1
    seen = channels // groups
    results = batch * filters * prod(extents)
    if results > MOST_ELEMENTS or results * seen * prod(kernel) > MOST_MACS:
        return conversions(graph, x)
    x = conversions(graph, x)
    y = graph.add(
        "Conv",
        [x, _weight(graph, filters, seen, kernel)],
        (batch, filters, *extents),
        group=groups,
        pads=[k // 2 for k in kernel] * 2,
        kernel_shape=kernel,
    )
    if rng.random() < 0.4:
        y = graph.add("Relu", [y], graph.shapes[y])
    y = conversions(graph, y)
    if filters == channels and rng.random() < 0.5:
        y = graph.add("Add", [y, x], graph.shapes[y])
        y = conversions(graph, graph.add("Relu", [y], graph.shapes[y]))
    return y


def _weight(graph: Graph, filters: int, channels: int, kernel: list[int]) -> str:
    """The name of a dequantised weight, by a scale for all or for each filter."""
    real = conv_weight(graph.rng, filters, channels, *kernel)
    shape = (filters, *(1,) * (real.ndim - 1))
    scale = abs(real).reshape(filters, -1).max(axis=1) / 127 + np.float32(1e-8)
    per_filter = graph.opset >= _AXIS_OPSET and graph.rng.random() < 0.7
    scale = (scale if per_filter else scale.max(keepdims=True)).astype("float32")
    stored = np.rint(real / (scale.reshape(shape) if per_filter else scale)).astype("int8")
    value = scale if per_filter else scale.reshape(())
    inputs = [stored, value, np.zeros(value.shape, "int8")]
    more = {"axis": 0} if per_filter else {}
    return graph.add(
        "DequantizeLinear", [graph.constant(each) for each in inputs], real.shape, **more
    )
