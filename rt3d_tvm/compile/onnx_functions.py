"""Functions written out: those of the file, and operators that ONNX defines by others.

ONNX gives many operators a body of simpler ones. Where TVM's importer lacks an operator, or the
checker its shape, the body is what is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.errors import InputError, words_of

if TYPE_CHECKING:
    import onnx

# Since this one the scales of a GroupNormalization are of channels.
_CHANNELS_OPSET = 21


def write_out_functions(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model without functions, of its own or of ONNX's, that TVM's importer does not know."""
    import onnx
    from onnx import inliner
    from tvm.relax.frontend.onnx.onnx_frontend import _get_convert_map

    opset = next(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        _write_groups(model, opset)
        known = _get_convert_map()
        names = {n.op_type for n in model.graph.node if n.domain in ("", "ai.onnx")} - known.keys()
        written = [("", name) for name in sorted(names) if _has_body(name, opset)]
        if written:
            # The bodies of some depend on the types of what they read, those of constants too.
            stated = [_typed(tensor) for tensor in model.graph.initializer]
            model.graph.value_info.extend(stated)
            model = inliner.inline_selected_functions(model, written, inline_schema_functions=True)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise InputError(f"{path}: not a valid ONNX model: {words_of(error, lines=1)}") from error
    return model


def _has_body(name: str, opset: int) -> bool:
    import onnx

    if not onnx.defs.has(name, opset, ""):
        return False
    schema = onnx.defs.get_schema(name, opset, "")
    return schema.has_function or schema.has_context_dependent_function


def _typed(tensor: onnx.TensorProto) -> onnx.ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)


def _write_groups(model: onnx.ModelProto, opset: int) -> None:
    """Write each GroupNormalization as an InstanceNormalization of its groups.

    ONNX infers no shape for it where its scale is a constant. Its scales are of groups before opset
    21, and of channels since.
    """
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "GroupNormalization" and len(node.input) == 3:
            nodes += _groups(node, model.graph, opset)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _groups(node: onnx.NodeProto, graph: onnx.GraphProto, opset: int) -> Iterator[onnx.NodeProto]:
    from onnx import helper, numpy_helper

    x, scale, bias = node.input
    y = node.output[0]
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    count, epsilon = given.get("num_groups", 1), given.get("epsilon", 1e-5)

    def constant(name: str, value: object, dtype: str = "int64") -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), f"{y}:{name}"))
        return f"{y}:{name}"

    grouped, result = f"{y}:grouped", f"{y}:normalised"
    yield helper.make_node("Reshape", [x, constant("by_group", [0, count, -1])], [grouped])
    factors = [scale, bias]
    if opset >= _CHANNELS_OPSET:
        factors = [constant(f"all_{one}", [one] * count, "float32") for one in (1, 0)]
    yield helper.make_node(
        "InstanceNormalization", [grouped, *factors], [result], node.name, epsilon=epsilon
    )
    if opset >= _CHANNELS_OPSET:
        column, rows = constant("column", [-1, 1]), f"{y}:by_channel"
        parts = [constant("batch", [0]), f"{y}:channels", constant("rest", [-1])]
        yield helper.make_node("Shape", [scale], [parts[1]])
        yield helper.make_node("Concat", parts, [f"{y}:rows"], axis=0)
        yield helper.make_node("Reshape", [result, f"{y}:rows"], [rows])
        yield helper.make_node("Reshape", [scale, column], [f"{y}:scale"])
        yield helper.make_node("Reshape", [bias, column], [f"{y}:bias"])
        yield helper.make_node("Mul", [rows, f"{y}:scale"], [f"{y}:scaled"])
        result = f"{y}:biased"
        yield helper.make_node("Add", [f"{y}:scaled", f"{y}:bias"], [result])
    yield helper.make_node("Shape", [x], [f"{y}:shape"])
    yield helper.make_node("Reshape", [result, f"{y}:shape"], [y])
