"""What of an ONNX file is accepted: its opset, inputs, outputs and shapes; else it is refused."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.compile.limits import check_results
from rt3d_tvm.compile.onnx_file import invalid, label_of
from rt3d_tvm.errors import InputError, words_of

if TYPE_CHECKING:
    import onnx

MIN_OPSET, MAX_OPSET = 11, 23
# Of results: those of ArgMax and TopK are whole numbers.
OUTPUT_TYPES = (1, 6, 7)  # TensorProto's FLOAT, INT32, INT64
MAX_ELEMENTS = 2**31 - 1  # kernels index with 32 bits


def check_opset(model: onnx.ModelProto, path: Path) -> None:
    """InputError for an opset that is not accepted, and for weights that are stored as sparse."""
    if model.graph.sparse_initializer:
        raise InputError(
            f"{path}: sparse_initializer is not accepted; store pruned weights as dense tensors "
            "with zeros in them"
        )
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1:
        raise InputError(
            f"{path}: names {len(versions)} versions of the standard operator set; one from "
            f"{MIN_OPSET} to {MAX_OPSET} is accepted"
        )
    if not MIN_OPSET <= versions[0] <= MAX_OPSET:
        raise InputError(
            f"{path}: opset {versions[0]} is not supported; {MIN_OPSET} to {MAX_OPSET} are: export "
            "again with opset_version=18"
        )


def check_interface(model: onnx.ModelProto, path: Path) -> None:
    """InputError for inputs and outputs that are not accepted."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if not inputs:
        raise InputError(f"{path}: it has no input; at least one is accepted")
    if not model.graph.output:
        raise InputError(f"{path}: it has no output; at least one is accepted")
    for value in inputs:
        _check_input(value, f"{path}: input {value.name!r}")
    for value in model.graph.output:
        _check_output(value, f"{path}: output {value.name!r}")


def _check_input(value: onnx.ValueInfoProto, where: str) -> None:
    from onnx import TensorProto

    fixed = "export with fixed shapes: no dynamic_shapes, no dynamic_axes"
    if not value.type.HasField("tensor_type"):
        raise InputError(f"{where}: not a tensor; a float32 tensor is accepted")
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        raise InputError(f"{where}: {_type_name(tensor.elem_type)}; float32 is accepted")
    if not tensor.HasField("shape"):
        raise InputError(f"{where}: no shape; {fixed}")
    if not tensor.shape.dim:
        raise InputError(f"{where}: a number without dimensions; at least one is accepted")
    for i, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_param"):
            how = f"compile with batch=N (--batch N or N,N), or {fixed}" if i == 0 else fixed
            raise InputError(f"{where}: dimension {i} is dynamic ({dim.dim_param!r}); {how}")
        if not dim.HasField("dim_value"):
            raise InputError(f"{where}: dimension {i} is missing; {fixed}")
        if dim.dim_value < 1:
            raise InputError(f"{where}: dimension {i} is {dim.dim_value}; at least 1 is accepted")


def _check_output(value: onnx.ValueInfoProto, where: str) -> None:
    from onnx import TensorProto

    kind = value.type.tensor_type.elem_type
    if kind not in (TensorProto.UNDEFINED, *OUTPUT_TYPES):
        accepted = ", ".join(_type_name(known) for known in OUTPUT_TYPES)
        raise InputError(
            f"{where}: {_type_name(kind)}; accepted are {accepted}, such as of a DequantizeLinear"
        )


def check_shapes(model: onnx.ModelProto, path: Path) -> dict[str, list[int]]:
    """Run ONNX's own checker, bound every tensor by what a kernel can index; return the shapes.

    An output whose shape the file leaves out gets the one that follows from the rest.
    """
    import onnx

    if model.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF:
        raise InputError(
            f"{path}: {model.ByteSize()} bytes with its weights; "
            f"{onnx.checker.MAXIMUM_PROTOBUF} are accepted"
        )
    inferred = _inferred(model, path)
    for value, known in zip(model.graph.output, inferred.output, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            value.CopyFrom(known)
    try:
        if not all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
            # Of a node whose inputs do not fit the shape is lacking; the checker does not name it.
            onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model, full_check=True)
        shapes = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except invalid() as error:
        raise InputError(f"{path}: not a valid ONNX model: {words_of(error, lines=1)}") from error

    known = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for value in (*shapes.input, *shapes.value_info, *shapes.output):
        if not value.type.tensor_type.HasField("shape"):
            raise InputError(f"{path}: tensor {value.name!r} has no shape; a fixed one is accepted")
        dims = value.type.tensor_type.shape.dim
        if any(not dim.HasField("dim_value") or dim.dim_value < 1 for dim in dims):
            shape = [dim.dim_value if dim.HasField("dim_value") else "?" for dim in dims]
            raise InputError(
                f"{path}: tensor {value.name!r} has the shape {shape}; fixed sizes of at least 1 "
                "are accepted"
            )
        known[value.name] = [dim.dim_value for dim in dims]
        if prod(known[value.name]) > MAX_ELEMENTS:
            raise InputError(
                f"{path}: tensor {value.name!r} has {prod(known[value.name])} elements; up to "
                f"{MAX_ELEMENTS} are accepted"
            )
    check_results(model.graph, _types(shapes), path)
    for node in model.graph.node:
        if node.op_type == "Conv" and all(name in known for name in node.input if name):
            _check_conv(node, known, path)
        if node.op_type in ("MaxPool", "AveragePool") and node.input[0] in known:
            _check_pool(node, known[node.input[0]], path)
    return known


def _check_pool(node: onnx.NodeProto, data: list[int], path: Path) -> None:
    """A window that is larger than the padded input: ONNX's rule for its result is none."""
    attributes = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    window = attributes["kernel_shape"]
    if any(a.name == "auto_pad" and a.s.startswith(b"SAME") for a in node.attribute):
        return
    pads = attributes.get("pads") or [0] * 2 * len(window)
    steps = attributes.get("dilations") or [1] * len(window)
    for axis, (size, kernel, step) in enumerate(zip(data[2:], window, steps, strict=True)):
        padded = size + pads[axis] + pads[axis + len(window)]
        if (kernel - 1) * step + 1 > padded:
            raise InputError(
                f"{path}: node {label_of(node)}: its window of {(kernel - 1) * step + 1} is larger "
                f"than the padded input along axis {axis + 2}, {padded}; a window inside it is "
                "accepted"
            )


def _check_conv(node: onnx.NodeProto, known: dict[str, list[int]], path: Path) -> None:
    """ONNX's checker leaves it open whether the shapes of a Conv fit together."""
    channels, weight = known[node.input[0]][1], known[node.input[1]]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    groups = attributes["group"].i if "group" in attributes else 1
    kernel = list(attributes["kernel_shape"].ints) if "kernel_shape" in attributes else weight[2:]
    where = f"{path}: node {label_of(node)}: Conv with a weight of shape {weight}"
    if groups < 1 or weight[0] % groups:
        raise InputError(f"{where} and {groups} groups; a divisor of {weight[0]} is accepted")
    if weight[1] * groups != channels:
        raise InputError(
            f"{where} and {groups} groups takes {weight[1] * groups} channels; its input has "
            f"{channels}"
        )
    if kernel != weight[2:]:
        raise InputError(f"{where} has kernel_shape {kernel}; {weight[2:]} is accepted")
    if len(node.input) > 2 and node.input[2] and known[node.input[2]] != [weight[0]]:
        raise InputError(
            f"{where} has a bias of shape {known[node.input[2]]}; [{weight[0]}] is accepted"
        )


def _inferred(model: onnx.ModelProto, path: Path) -> onnx.GraphProto:
    """By shapes alone, and before ONNX's checker, which computes with values as well."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a valid ONNX model: {words_of(error, lines=1)}") from error


def _types(graph: onnx.GraphProto) -> dict[str, tuple[int, list[int]]]:
    """The element type and shape of each tensor of which a fixed one is known."""
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            found[value.name] = tensor.elem_type, [dim.dim_value for dim in tensor.shape.dim]
    return found


def _type_name(elem_type: int) -> str:
    from onnx import TensorProto

    known = elem_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(elem_type).lower() if known else f"type {elem_type}"
