"""A layer with random weights of a density, as an ONNX file: what kernel groups are timed on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.conv_shape import ConvShape
from topi_sparse.kernel_group import KernelGroup

if TYPE_CHECKING:
    import onnx

# Deviation of the log of a location's importance, so that row blocks keep unequal numbers of
# columns, as in trained nets.
_SIGMA = 0.6
# Of standard normal inputs in uint8; of the sums of so many products in 8 bits, the steps in a
# deviation.
_STEP, _ZERO, _STEPS = 1 / 32, 128, 32


def synthesised_weight(
    layer: ConvShape, *, group: KernelGroup, density: float, seed: int = 0
) -> np.ndarray:
    """Random float32 (M, N, KD, KH, KW) that keeps ``density`` of its kernel groups' locations.

    The most important are kept, wherever they are, so that row blocks keep unequal numbers.
    """
    rng = np.random.default_rng(seed)
    blocks = (-(-layer.filters // group.g_m), -(-layer.channels // group.g_n))
    importance = rng.lognormal(sigma=_SIGMA, size=(*blocks, *layer.kernel))
    importance *= rng.lognormal(sigma=_SIGMA, size=(*blocks, 1, 1, 1))
    kept = max(round(density * importance.size), 1)
    mask = importance >= np.partition(importance.ravel(), -kept)[-kept]
    mask = mask.repeat(group.g_m, 0)[: layer.filters].repeat(group.g_n, 1)[:, : layer.channels]
    weight = rng.standard_normal((layer.filters, layer.channels, *layer.kernel))
    return np.where(mask, weight, 0).astype("float32")


def write_layer(layer: ConvShape, weight: np.ndarray, path: Path, *, int8: bool = False) -> None:
    """An ONNX file of this convolution, with bias and ReLU, and nothing else.

    int8: in QDQ, with uint8 activations and int8 weights of a scale for each filter.
    """
    import onnx
    from onnx import TensorProto, helper

    data = (1, layer.channels, *layer.data)
    bias = np.linspace(-1, 1, layer.filters, dtype="float32")
    stored = {"layer.bias": bias}
    geometry = {"strides": layer.stride, "pads": layer.padding * 2}
    names = ["real" if int8 else "x", "layer.weight", "layer.bias"]
    nodes = [
        helper.make_node("Conv", names, ["y"], **geometry),
        helper.make_node("Relu", ["y"], ["result" if int8 else "z"]),
    ]
    if int8:
        before, after = _conversions(weight, stored)
        nodes = [*before, *nodes, *after]
    else:
        stored["layer.weight"] = weight
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, data)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, layer.filters, *layer.out))],
        [onnx.numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def _conversions(
    weight: np.ndarray, stored: dict[str, np.ndarray]
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes before a convolution of real numbers and behind it, whose constants are stored."""
    from onnx import helper

    largest = abs(weight).max(axis=(1, 2, 3, 4), keepdims=True)
    scales = (np.where(largest > 0, largest, 1) / 127).astype("float32")
    deviation = float(np.sqrt((weight.astype("float64") ** 2).sum(axis=(1, 2, 3, 4)).max()))
    stored |= {
        "layer.weight_quantized": np.rint(weight / scales).astype("int8"),
        "scales": scales.ravel(),
        "zeros": np.zeros(len(weight), "int8"),
        "x_step": np.array(_STEP, "float32"),
        "step": np.array(max(deviation, 1) / _STEPS, "float32"),
        "zero": np.array(_ZERO, "uint8"),
    }
    x, y = ["x_step", "zero"], ["step", "zero"]
    of_weight = ["layer.weight_quantized", "scales", "zeros"]
    return [
        helper.make_node("QuantizeLinear", ["x", *x], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", *x], ["real"]),
        helper.make_node("DequantizeLinear", of_weight, ["layer.weight"], axis=0),
    ], [
        helper.make_node("QuantizeLinear", ["result", *y], ["zq"]),
        helper.make_node("DequantizeLinear", ["zq", *y], ["z"]),
    ]
