"""Pools in ceil mode, written so that every reader of ONNX gives them the shape that torch does.

torch drops a last window that would begin in the padding. ONNX's shape inference does not, and
whether an average counts what lies beyond the padding is read in more than one way. Padding at the
end, in floor mode, says the same without a choice:

    AveragePool(kernel 2, stride 2, pads 1 1, ceil_mode)   of 13, 7 long in torch, 8 in ONNX
    AveragePool(kernel 2, stride 2, pads 1 0)              7 long
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def write_out_ceil_pools(model: onnx.ModelProto) -> None:
    """Replace ``ceil_mode`` of pools by padding; the model's own shapes, torch's, say how much."""
    graph = model.graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    nodes = []
    for node in graph.node:
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type in ("AveragePool", "MaxPool") and attributes.get("ceil_mode"):
            nodes += _in_floor_mode(node, attributes, shapes, graph)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _in_floor_mode(
    node: onnx.NodeProto, attributes: dict, shapes: dict[str, list[int]], graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """Change a pool to floor mode; the nodes that it needs before it."""
    sides, outputs = shapes[node.input[0]][2:], shapes[node.output[0]][2:]
    rank = len(sides)
    pads = list(attributes.get("pads", [0] * 2 * rank))
    begins, ends = pads[:rank], pads[rank:]
    windows = zip(
        attributes["kernel_shape"],
        attributes.get("strides", [1] * rank),
        attributes.get("dilations", [1] * rank),
        strict=True,
    )
    # How far the last window reaches beyond what is there.
    reached = [
        max((count - 1) * stride + (kernel - 1) * dilation + 1 - side - begin, 0)
        for (kernel, stride, dilation), count, side, begin in zip(
            windows, outputs, sides, begins, strict=True
        )
    ]
    beyond = any(reach > end for reach, end in zip(reached, ends, strict=True))
    before = []
    if node.op_type == "AveragePool" and attributes.get("count_include_pad") and beyond:
        # torch counts its own padding and not what the last window adds to it.
        if any(pads):
            before = [_zeros_around(node, begins, ends, graph)]
            reached = [max(reach - end, 0) for reach, end in zip(reached, ends, strict=True)]
            begins = [0] * rank
        attributes["count_include_pad"] = 0
    attributes["ceil_mode"], attributes["pads"] = 0, [*begins, *reached]
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(*pair) for pair in sorted(attributes.items()))
    return before


def _zeros_around(
    node: onnx.NodeProto, begins: list[int], ends: list[int], graph: onnx.GraphProto
) -> onnx.NodeProto:
    """A Pad of zeros in front of a pool, which reads it."""
    name = f"{node.output[0]}_padded"
    pads = np.array([0, 0, *begins, 0, 0, *ends], np.int64)
    graph.initializer.append(numpy_helper.from_array(pads, f"{name}_pads"))
    pad = helper.make_node("Pad", [node.input[0], f"{name}_pads"], [name], name=f"node_{name}")
    node.input[0] = name
    return pad
