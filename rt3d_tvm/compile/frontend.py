"""ONNX -> Relax, strict: a file this module accepts is one the rest of the flow understands."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rt3d_tvm.arguments import as_path
from rt3d_tvm.errors import InputError
from rt3d_tvm.non_finite import in_graph, refuse

if TYPE_CHECKING:
    import onnx
    import tvm

MIN_OPSET, MAX_OPSET = 11, 23
# What the axes of an input are, by their number.
INPUT_AXES = {
    4: "(pictures, channels, height, width)",
    5: "(clips, channels, frames, height, width)",
}
MAX_ELEMENTS = 2**31 - 1  # kernels index with 32 bits

# What the exporter makes of 3D CNNs, and its close relatives. tests/compile/test_frontend.py
# compares each with ONNX Runtime at both ends of the range of opsets: add the test's row with the
# operator.
ACCEPTED_OPS = (
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "Div",
    "Dropout",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Softmax",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
)


def import_onnx(path: Path, *, allow_non_finite: bool = False) -> tvm.IRModule:
    """Read an ONNX file into a Relax module whose ``main`` takes one tensor of clips or pictures.

    The input is float32 of fixed shape (clips, channels, frames, height, width), or without frames;
    there is one output. A Conv arrives as ``relax.nn.conv3d`` or ``conv2d`` followed by reshape and
    add for its bias, its weights as constants. ``main`` has the attribute ``layer_names``:
    `layer_names` of the file, in the order of the graph, since the importer keeps no name of a
    node; `interface_of` reads another. Nodes that no output depends on are left out.

    Raises InputError for anything else, naming the node or the tensor and what is accepted; and for
    weights that are NaN or infinite unless ``allow_non_finite``: ``main`` then has the attribute
    ``non_finite``, which lists them.
    """
    path = as_path(path, "path")
    model, shapes = _accepted_model(path)
    found = in_graph(model)
    if not allow_non_finite:
        refuse(found, where=path, command="compile")

    from tvm.relax.frontend.onnx import from_onnx

    from rt3d_tvm.compile.interface import with_interface

    # The importer reports by print and by warning, and its refusals are of all these kinds.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = from_onnx(model, keep_params_in_input=False)
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            NotImplementedError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise InputError(
                f"{path}: TVM cannot import this model: {_first_line(error)}"
            ) from error
    attributes = {
        "layer_names": _layer_names(model, shapes),
        "non_finite": [str(each) for each in found],
    }
    module["main"] = module["main"].with_attrs(attributes)
    return with_interface(module, model, path)


def layer_names(path: Path) -> list[str]:
    """Name every layer of an ONNX file, in graph order, after the torch module it came from.

    Layers are the convolutions, and the fully connected ones: a matrix times a constant matrix. The
    name is that of the weight less ``.weight`` (``features.conv3a``), else the node's, else the
    output's; one used twice gets ``#2``. Raises InputError for a file that is not accepted.
    """
    return _layer_names(*_accepted_model(Path(path)))


def _accepted_model(path: Path) -> tuple[onnx.ModelProto, dict[str, list[int]]]:
    """The model with its weights, and the shapes of its tensors."""
    model = _read(path)
    _check_names(model, path)
    _check_opset(model, path)
    _check_nodes(model, path)
    _check_input_and_output(model, path)
    _load_external_data(model, path)
    shapes = _check_by_onnx(model, path)
    _remove_dead_nodes(model)
    return model, shapes


def _read(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    if not path.exists():
        raise InputError(f"{path}: no such file; an ONNX model is expected")
    if not path.is_file():
        raise InputError(f"{path}: not a file; an ONNX model is expected")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not an ONNX model, or a truncated one ({path.stat().st_size} bytes); "
            "export or copy it again"
        ) from error
    if not model.graph.node:
        raise InputError(f"{path}: not an ONNX model, or a truncated one: it holds no graph")
    return model


def _check_names(model: onnx.ModelProto, path: Path) -> None:
    """Protobuf hands out a string that is not UTF-8 as bytes: nothing below expects that."""
    graph = model.graph
    names = [value.name for value in (*graph.input, *graph.output, *graph.initializer)]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    for tensor in _tensors(model):
        names += [tensor.name, *(part for e in tensor.external_data for part in (e.key, e.value))]
    for value in graph.input:
        names += [dim.dim_param for dim in value.type.tensor_type.shape.dim]
    broken = [name for name in names if isinstance(name, bytes)]
    if broken:
        raise InputError(f"{path}: damaged: the name {broken[0]!r} in it is not text")


def _check_opset(model: onnx.ModelProto, path: Path) -> None:
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


def _check_nodes(model: onnx.ModelProto, path: Path) -> None:
    for node in model.graph.node:
        reason = _why_not(node)
        if reason is not None:
            raise InputError(f"{path}: node {_label(node)}: {reason}")
    if model.graph.sparse_initializer:
        raise InputError(
            f"{path}: sparse_initializer is not accepted; store pruned weights as dense tensors "
            "with zeros in them"
        )


def _why_not(node: onnx.NodeProto) -> str | None:
    """The reason a node is not accepted, or None."""
    if node.domain not in ("", "ai.onnx"):
        return (
            f"operator {node.op_type} of domain {node.domain!r} is not accepted; only the standard "
            "domain is"
        )
    if node.op_type not in ACCEPTED_OPS:
        return f"operator {node.op_type} is not accepted; accepted are " + ", ".join(ACCEPTED_OPS)
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "auto_pad" in attributes and attributes["auto_pad"].s != b"NOTSET":
        # TVM reads SAME_LOWER otherwise than ONNX does, and torch writes none of them.
        padding = attributes["auto_pad"].s.decode(errors="replace")
        return f"auto_pad {padding} is not accepted; write the padding as pads"
    if "training_mode" in attributes and attributes["training_mode"].i:
        return f"{node.op_type} in training mode is not accepted; export in eval mode"
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        return "Dropout with an input for training mode is not accepted; export in eval mode"
    if node.op_type == "Pad" and "mode" in attributes and attributes["mode"].s == b"wrap":
        return "Pad mode wrap is not accepted; accepted are constant, edge, reflect"
    return None


def _check_input_and_output(model: onnx.ModelProto, path: Path) -> None:
    from onnx import TensorProto

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise InputError(f"{path}: {len(inputs)} inputs ({names}); exactly one is accepted")
    if len(model.graph.output) != 1:
        names = ", ".join(value.name for value in model.graph.output) or "none"
        raise InputError(
            f"{path}: {len(model.graph.output)} outputs ({names}); exactly one is accepted"
        )

    (value,) = inputs
    label = f"{path}: input {value.name!r}"
    fixed = "export with fixed shapes: no dynamic_shapes, no dynamic_axes"
    if not value.type.HasField("tensor_type"):
        raise InputError(f"{label}: not a tensor; a float32 tensor is accepted")
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        raise InputError(f"{label}: {_type_name(tensor.elem_type)}; float32 is accepted")
    if not tensor.HasField("shape"):
        raise InputError(f"{label}: no shape; {fixed}")
    if len(tensor.shape.dim) not in INPUT_AXES:
        accepted = " or ".join(f"{rank} {axes}" for rank, axes in INPUT_AXES.items())
        raise InputError(f"{label}: {len(tensor.shape.dim)} dimensions; accepted are {accepted}")
    for i, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_param"):
            raise InputError(f"{label}: dimension {i} is dynamic ({dim.dim_param!r}); {fixed}")
        if not dim.HasField("dim_value"):
            raise InputError(f"{label}: dimension {i} is missing; {fixed}")
        if dim.dim_value < 1:
            raise InputError(f"{label}: dimension {i} is {dim.dim_value}; at least 1 is accepted")


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Bring weights stored beside the model into it; none may lie outside the model's folder."""
    from onnx import TensorProto
    from onnx.checker import ValidationError
    from onnx.external_data_helper import load_external_data_for_tensor

    folder = path.parent.resolve()
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        label = f"{path}: weights of {tensor.name!r}"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        try:
            file = (folder / PurePosixPath(location)).resolve()
            outside = not file.is_relative_to(folder)
        except ValueError:  # a zero byte in the name
            outside = True
        if not location or outside:
            raise InputError(
                f"{label}: external data at {location!r} is outside the model's folder; a file "
                "inside it is accepted"
            )
        if not file.is_file():
            raise InputError(
                f"{label}: external data file {location!r} is missing; it has to lie beside the "
                "model"
            )
        try:
            load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, ValidationError) as error:
            raise InputError(
                f"{label}: external data file {location!r} is truncated or damaged: "
                f"{_first_line(error)}"
            ) from error


def _check_by_onnx(model: onnx.ModelProto, path: Path) -> dict[str, list[int]]:
    """Run ONNX's own checker, bound every tensor by what a kernel can index; return the shapes."""
    import onnx

    if model.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF:
        raise InputError(
            f"{path}: {model.ByteSize()} bytes with its weights; "
            f"{onnx.checker.MAXIMUM_PROTOBUF} are accepted"
        )
    try:
        onnx.checker.check_model(model, full_check=True)
        shapes = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        IndexError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(f"{path}: not a valid ONNX model: {_first_line(error)}") from error

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
    for node in model.graph.node:
        if node.op_type == "Conv" and all(name in known for name in node.input if name):
            _check_conv(node, known, path)
    return known


def _check_conv(node: onnx.NodeProto, known: dict[str, list[int]], path: Path) -> None:
    """ONNX's checker leaves it open whether the shapes of a Conv fit together."""
    channels, weight = known[node.input[0]][1], known[node.input[1]]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    groups = attributes["group"].i if "group" in attributes else 1
    kernel = list(attributes["kernel_shape"].ints) if "kernel_shape" in attributes else weight[2:]
    label = f"{path}: node {_label(node)}: Conv with a weight of shape {weight}"
    if groups < 1 or weight[0] % groups:
        raise InputError(f"{label} and {groups} groups; a divisor of {weight[0]} is accepted")
    if weight[1] * groups != channels:
        raise InputError(
            f"{label} and {groups} groups takes {weight[1] * groups} channels; its input has "
            f"{channels}"
        )
    if kernel != weight[2:]:
        raise InputError(f"{label} has kernel_shape {kernel}; {weight[2:]} is accepted")
    if len(node.input) > 2 and node.input[2] and known[node.input[2]] != [weight[0]]:
        raise InputError(
            f"{label} has a bias of shape {known[node.input[2]]}; [{weight[0]}] is accepted"
        )


def _remove_dead_nodes(model: onnx.ModelProto) -> None:
    """Drop nodes that no output depends on, so that the convolutions left are those compiled."""
    needed = {value.name for value in model.graph.output}
    live = []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            live.append(node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(live))


def _layer_names(model: onnx.ModelProto, shapes: dict[str, list[int]]) -> list[str]:
    # What depends on constants alone is folded away and becomes no layer.
    constants = {"", *(tensor.name for tensor in model.graph.initializer)}
    names: list[str] = []
    for node in model.graph.node:
        if constants.issuperset(node.input):
            constants.update(node.output)
        elif node.op_type == "Conv" or (
            node.op_type in ("Gemm", "MatMul")
            and node.input[1] in constants
            and [len(shapes.get(name, ())) for name in node.input[:2]] == [2, 2]
        ):
            names.append(_unique(_layer_name(node), names))
    return names


def _layer_name(node: onnx.NodeProto) -> str:
    stem = node.input[1].removesuffix(".weight")
    return stem if stem and stem != node.input[1] else _label(node)


def _unique(name: str, others: list[str]) -> str:
    used = sum(other == name or other.startswith(f"{name}#") for other in others)
    return f"{name}#{used + 1}" if used else name


def _label(node: onnx.NodeProto) -> str:
    return node.name or ", ".join(node.output) or node.op_type


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _type_name(elem_type: int) -> str:
    from onnx import TensorProto

    known = elem_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(elem_type).lower() if known else f"type {elem_type}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
