"""Harmless ways to write a graph, brought to the one that TVM's importer reads as ONNX means it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.compile.onnx_file import read_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx


# The element types of what a Constant holds instead of a tensor.
_NUMBERS = {
    "value_float": "float32",
    "value_floats": "float32",
    "value_int": "int64",
    "value_ints": "int64",
}


def write_tensors(model: onnx.ModelProto) -> None:
    """Write as a tensor what a Constant holds as numbers, which TVM does not read."""
    import onnx

    for node in model.graph.node:
        if node.op_type != "Constant":
            continue
        for attribute in node.attribute:
            if attribute.name in _NUMBERS:
                numbers = onnx.helper.get_attribute_value(attribute)
                tensor = onnx.numpy_helper.from_array(np.array(numbers, _NUMBERS[attribute.name]))
                attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def alone(
    model: onnx.ModelProto, node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto]
) -> onnx.ModelProto:
    """A model of one node, which reads the constants that it does in its own; types of tensors."""
    import onnx

    constants = [tensor for tensor in model.graph.initializer if tensor.name in node.input]
    held = {tensor.name for tensor in constants}
    values = [
        [onnx.helper.make_value_info(name, types[name]) for name in names if name in types]
        for names in (dict.fromkeys(name for name in node.input if name not in held), node.output)
    ]
    single = onnx.helper.make_graph([node], "alone", *values, constants)
    opsets = list(model.opset_import)
    return onnx.helper.make_model(single, opset_imports=opsets, ir_version=model.ir_version)


def types_of(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The types of all tensors of a model but its constants', as far as they follow."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    return {v.name: v.type for v in (*graph.input, *graph.value_info, *graph.output)}


def remove_dead_nodes(model: onnx.ModelProto) -> None:
    """Drop nodes that no output depends on, so that the convolutions left are those compiled."""
    needed = {value.name for value in model.graph.output}
    live = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(read_by(node))
            live.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(live))


# Of these two equal nodes give different results.
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli")
# What attributes of convolutions are where a node does not have them, for any number of axes.
_DEFAULTS = {
    "group": 1,
    "strides": 1,
    "dilations": 1,
    "pads": 0,
    "output_padding": 0,
    "auto_pad": b"NOTSET",
}


def merge_equal_nodes(model: onnx.ModelProto) -> None:
    """Compute once what several nodes compute alike: TVM would, and leave fewer layers than names.

    Constants are alike where their values are. A model whose nodes hold graphs stays as it is.
    """
    import onnx

    if any(a.type in (a.GRAPH, a.GRAPHS) for node in model.graph.node for a in node.attribute):
        return
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    results: dict[str, str] = {}  # the first that is equal, by the name of a later one
    # Nodes that differ in the values of constants at most.
    alike: dict[tuple, list[onnx.NodeProto]] = {}

    def kind(name: str) -> object:
        tensor = constants.get(name)
        return name if tensor is None else (tensor.data_type, *tensor.dims)

    def is_equal(a: str, b: str) -> bool:
        if a == b or a not in constants:
            return a == b
        values = (onnx.numpy_helper.to_array(constants[name]).tobytes() for name in (a, b))
        return next(values) == next(values)

    nodes = []
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = results.get(name, name)
        key = (node.domain, node.op_type, *map(kind, node.input), None, *_attributes(node))
        others = alike.setdefault(key, [])
        first = next((o for o in others if all(map(is_equal, node.input, o.input))), None)
        if node.op_type in _RANDOM or first is None or len(first.output) < len(node.output):
            others.append(node)
            nodes.append(node)
            continue
        for name, other in zip(node.output, first.output, strict=False):
            results[name] = other
            if name in outputs:
                nodes.append(onnx.helper.make_node("Identity", [other], [name]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _attributes(node: onnx.NodeProto) -> list[bytes]:
    """What tells nodes apart beside their inputs, without attributes that are as by default."""
    import onnx

    found = []
    for attribute in sorted(node.attribute, key=lambda each: each.name):
        if node.op_type in ("Conv", "ConvTranspose"):
            value = onnx.helper.get_attribute_value(attribute)
            values = value if isinstance(value, list) else [value]
            if attribute.name == "kernel_shape" or all(
                each == _DEFAULTS.get(attribute.name) for each in values
            ):
                continue
        found.append(attribute.SerializeToString(deterministic=True))
    return found


def remove_unused_outputs(model: onnx.ModelProto) -> None:
    """Drop optional results that nothing reads: the Indices of a MaxPool, the mask of a Dropout."""
    import onnx

    read = Counter(name for node in model.graph.node for name in node.input)
    read.update(value.name for value in model.graph.output)
    (opset,) = (e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        declared = onnx.defs.get_schema(node.op_type, opset, node.domain).outputs
        optional = onnx.defs.OpSchema.FormalParameterOption.Optional
        while (
            len(node.output) > 1
            and not read[node.output[-1]]
            and declared[min(len(node.output), len(declared)) - 1].option == optional
        ):
            node.output.pop()


def write_padding(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Write as ``pads`` what ``auto_pad`` asks for: TVM reads SAME_LOWER otherwise than ONNX does.

    shapes: those of all tensors, fixed.
    """
    import onnx

    for node in model.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if "auto_pad" not in attributes or node.op_type == "ConvTranspose":
            continue
        kind = attributes["auto_pad"].s.decode()
        kept = [attribute for attribute in node.attribute if attribute.name != "auto_pad"]
        if kind != "NOTSET":
            kept = [attribute for attribute in kept if attribute.name != "pads"]
            pads = _padding(node, kind, shapes)
            kept.append(onnx.helper.make_attribute("pads", pads))
        del node.attribute[:]
        node.attribute.extend(kept)


def _padding(node: onnx.NodeProto, kind: str, shapes: Mapping[str, Sequence[int]]) -> list[int]:
    """Zeros, or for SAME what lets the result have ceil(size / stride) positions along each axis.

    The odd one goes to the end in SAME_UPPER and to the beginning in SAME_LOWER.
    """
    ints = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    sizes = shapes[node.input[0]][2:]
    if kind == "VALID":
        return [0] * 2 * len(sizes)
    window = ints.get("kernel_shape") or shapes[node.input[1]][2:]
    strides = ints.get("strides") or [1] * len(sizes)
    dilations = ints.get("dilations") or [1] * len(sizes)
    before, after = [], []
    for size, kernel, stride, step in zip(sizes, window, strides, dilations, strict=True):
        reach = (-(-size // stride) - 1) * stride + (kernel - 1) * step + 1
        total = max(reach - size, 0)
        less = total // 2
        before.append(less if kind == "SAME_UPPER" else total - less)
        after.append(total - before[-1])
    return [*before, *after]
