"""A float model and its tensors' ranges -> QDQ: 8-bit values between pairs of Q and DQ nodes.

    x -> Q -> DQ -> Conv(x, DQ(int8 weight), DQ(int32 bias)) -> Q -> DQ -> ...

Activations are uint8 with one scale and zero point per tensor. Weights are int8 with one scale per
filter and no zero point, so that a zero stays a zero.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection

import numpy as np
import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata

from rt3d_tvm.quantize.float_model import FloatModel, Layer
from rt3d_tvm.quantize.ranges import OPERATORS, quiet

# Of the filters of a layer that has no other weights than zeros: a scale of 1e-6.
_LEAST_RANGE = 127e-6


def to_qdq(model: FloatModel, ranges: TensorsData, *, in_float: Collection[str]) -> onnx.ModelProto:
    """The model in QDQ form; layers ``in_float``, by name, keep float32 weights and results."""
    proto = copy.deepcopy(model.proto)
    add_infer_metadata(proto)  # its shapes are known: no files are written to find them
    weights = model.weights
    excluded = [layer.node for layer in model.layers if layer.name in in_float]
    _own_weights(proto, excluded)
    overrides: dict[str, list[dict]] = {}
    for layer in model.layers:
        if layer.name not in in_float:
            overrides.update(_zero_filters(layer, weights[layer.weight]))
    with quiet():
        quantizer = QDQQuantizer(
            proto,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=excluded,
            op_types_to_quantize=OPERATORS,
            extra_options={"TensorQuantOverrides": overrides},
        )
        quantised = quantizer.quantize_model()
        quantizer.model.topological_sort()
    # The file says of itself what the float model's says, and nothing of the quantiser's.
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(model.proto.metadata_props)
    return quantised


def _own_weights(proto: onnx.ModelProto, nodes: Collection[str]) -> None:
    """Give each of the nodes weights that no other reads: those of others may become int8."""
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    readers = Counter(name for node in proto.graph.node for name in node.input)
    for node in (node for node in proto.graph.node if node.name in nodes):
        for index, name in enumerate(node.input):
            if name in held and readers[name] > 1:
                own = onnx.TensorProto()
                own.CopyFrom(held[name])
                own.name = node.input[index] = f"{name}/{node.name}"
                proto.graph.initializer.append(own)


def _zero_filters(layer: Layer, weight: np.ndarray) -> dict[str, list[dict]]:
    """Ranges for filters that are all zero, which have none of their own.

    onnxruntime would give them a scale of 1, and with it to their bias one far too coarse: a
    bias's scale is the weight's times the input's. They get the finest of the layer's others.
    """
    others = tuple(axis for axis in range(weight.ndim) if axis != layer.axis)
    largest = np.abs(weight).max(axis=others)
    if largest.all():
        return {}
    finest = largest[largest > 0].min(initial=np.inf)
    largest[largest == 0] = finest if np.isfinite(finest) else _LEAST_RANGE
    ranges = [{"axis": layer.axis, "rmin": -each, "rmax": each} for each in largest]
    return {layer.weight: ranges}
