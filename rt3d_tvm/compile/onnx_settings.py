"""Numbers that say what an operator does, and that a graph stores in 8 bits -> as float32.

Before, as onnxruntime's quantisation writes a Pad::

    value = DequantizeLinear(128, scale, zero)
    y     = Pad(x, pads, value)

After::

    y     = Pad(x, pads, 0.0)

TVM's importer takes such a number as an attribute. Conversions of other constants stay: the passes
for 8-bit layers look for them before weights and summands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rt3d_tvm.compile.onnx_fold import computed
from rt3d_tvm.compile.onnx_quantized import constant_tensors

if TYPE_CHECKING:
    import numpy as np
    import onnx

# Which inputs of an operator are such numbers.
_SETTINGS = {"Pad": (2,), "Clip": (1, 2)}
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")


def store_settings(model: onnx.ModelProto) -> None:
    """Give each operator the number that conversions make of constants, in place.

    What ONNX Runtime does not compute is left as it is.
    """
    from onnx import numpy_helper

    constants = constant_tensors(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        for index in _SETTINGS.get(node.op_type, ()):
            name = node.input[index] if len(node.input) > index else ""
            if not (chain := _conversions(name, producers)):
                continue
            stored = f"{name}_as_number"
            if stored not in constants and (values := _computed(model, chain, constants)):
                constants[stored] = numpy_helper.from_array(values[0], stored)
                model.graph.initializer.append(constants[stored])
            if stored in constants:
                node.input[index] = stored


def _conversions(name: str, producers: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The conversions that a value comes from, the first of them first."""
    chain: list[onnx.NodeProto] = []
    while (node := producers.get(name)) is not None and node.op_type in _CONVERSIONS:
        chain.insert(0, node)
        name = node.input[0]
    return chain


def _computed(
    model: onnx.ModelProto, chain: list[onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> list[np.ndarray]:
    """What the last of some conversions gives; nothing where they read more than constants."""
    from onnx import helper, numpy_helper

    last = chain[-1]
    inner = {node.output[0] for node in chain}
    read = sorted({name for node in chain for name in node.input if name} - inner)
    if len(last.input) < 2 or not all(name in constants for name in (*read, last.input[1])):
        return []
    tensors = [numpy_helper.from_array(numpy_helper.to_array(constants[n]), n) for n in read]
    result = helper.make_tensor_value_info(last.output[0], constants[last.input[1]].data_type, None)
    graph = helper.make_graph(chain, "numbers", [], [result], tensors)
    return computed(graph, model.opset_import, {})
