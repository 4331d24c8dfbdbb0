"""How much of a layer's result is noise of quantisation: signal-to-noise ratios in dB.

One graph holds the model three times, so that no tensor leaves onnxruntime, only sums of squares:

    float:     x -> Conv -> y
    chain/:    the QDQ model as it is: the noise of all layers before is in each
    own/:      every Q reads the float tensor: the noise in each result is the layer's own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rt3d_tvm.quantize.float_model import FloatModel, Layer
from rt3d_tvm.quantize.session import exact_session

_Q_INPUT, _DQ_OUTPUT = "_QuantizeLinear_Input", "_DequantizeLinear_Output"


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Signal over noise in dB; None where there is no noise at all, or no signal.

    total: of the result, noise of earlier layers included. own: of the layer alone, given float
    inputs. weight: of the weights.
    """

    total: float | None
    own: float | None
    weight: float | None


def noise_of(
    model: FloatModel, quantised: onnx.ModelProto, batches: Sequence[np.ndarray]
) -> dict[str, Noise]:
    """The noise of each layer on the clips, by the layer's name."""
    merged, name = _merged(model, quantised), model.manifest["inputs"][0]["name"]
    session = exact_session(merged)
    sums = np.zeros((len(model.layers), 3))
    for batch in batches:
        sums += np.array(session.run(None, {name: batch}), np.float64).reshape(sums.shape)
    stored = {tensor.name: tensor for tensor in quantised.graph.initializer}
    weights = model.weights
    read = {node.name: node.input[1] for node in quantised.graph.node if len(node.input) > 1}
    return {
        layer.name: Noise(
            total=_decibels(signal, chain),
            own=_decibels(signal, own),
            weight=_weight_ratio(layer, weights[layer.weight], stored)
            if read[layer.node] == layer.weight + _DQ_OUTPUT
            else None,
        )
        for layer, (signal, chain, own) in zip(model.layers, sums, strict=True)
    }


def _decibels(signal: float, noise: float) -> float | None:
    return 10 * log10(signal / noise) if signal > 0 and noise > 0 else None


def _weight_ratio(
    layer: Layer, weight: np.ndarray, stored: dict[str, onnx.TensorProto]
) -> float | None:
    values = numpy_helper.to_array(stored[f"{layer.weight}_quantized"]).astype(np.float64)
    scale = numpy_helper.to_array(stored[f"{layer.weight}_scale"]).astype(np.float64)
    values *= scale.reshape([-1 if axis == layer.axis else 1 for axis in range(weight.ndim)])
    exact = weight.astype(np.float64)
    return _decibels(float((exact**2).sum()), float(((exact - values) ** 2).sum()))


def _merged(model: FloatModel, quantised: onnx.ModelProto) -> onnx.ModelProto:
    """The three graphs, of one input; outputs are three sums per layer: signal and both noises."""
    merged = onnx.ModelProto()
    merged.CopyFrom(model.proto)
    graph = merged.graph
    known = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(t for t in quantised.graph.initializer if t.name not in known)
    made = {name for node in quantised.graph.node for name in node.output}
    chain = _renamed(quantised, made, "chain/", {})
    floats = {
        node.input[0]: node.input[0].removesuffix(_Q_INPUT)
        for node in quantised.graph.node
        if node.op_type == "QuantizeLinear"
    }
    own = _renamed(quantised, made, "own/", floats)
    graph.node.extend([*chain, *own])
    del graph.output[:]
    for index, layer in enumerate(model.layers):
        reached = layer.result + _DQ_OUTPUT
        pair = f"chain/{reached if reached in made else layer.result}", _own(graph, layer, made)
        _add_sums(graph, f"sum/{index}", layer.result, pair)
    return merged


def _renamed(
    quantised: onnx.ModelProto, made: set[str], prefix: str, floats: dict[str, str]
) -> list[onnx.NodeProto]:
    """The nodes with a prefix to all they make; a Q reads ``floats`` of its input instead."""
    nodes = []
    for node in quantised.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + node.name
        copy.input[:] = [prefix + name if name in made else name for name in node.input]
        copy.output[:] = [prefix + name if name else name for name in node.output]
        if node.op_type == "QuantizeLinear" and node.input[0] in floats:
            copy.input[0] = floats[node.input[0]]
        nodes.append(copy)
    return nodes


def _own(graph: onnx.GraphProto, layer: Layer, made: set[str]) -> str:
    """The layer's result of float inputs, itself quantised where the model quantises it."""
    raw = layer.result + _Q_INPUT
    raw = f"own/{raw if raw in made else layer.result}"
    quantize = [
        node
        for node in graph.node
        if node.op_type == "QuantizeLinear"
        and node.name.startswith("own/")
        and node.input[0] == layer.result
    ]
    if not quantize:
        return raw
    eight_bit, result = f"own/{layer.name}/8-bit", f"own/{layer.name}/result"
    scale = list(quantize[0].input[1:])
    graph.node.append(helper.make_node("QuantizeLinear", [raw, *scale], [eight_bit]))
    graph.node.append(helper.make_node("DequantizeLinear", [eight_bit, *scale], [result]))
    return result


def _add_sums(graph: onnx.GraphProto, name: str, signal: str, others: tuple[str, str]) -> None:
    """Outputs: the sum of squares of the signal, and of its difference from each of the others."""
    summed = [signal]
    for index, other in enumerate(others):
        summed.append(f"{name}/difference{index}")
        graph.node.append(helper.make_node("Sub", [signal, other], [summed[-1]]))
    for index, tensor in enumerate(summed):
        output = f"{name}/{index}"
        graph.node.append(helper.make_node("ReduceSumSquare", [tensor], [output], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ()))
