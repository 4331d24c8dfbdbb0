"""The float32 model that is to be quantised: read, checked, its layers found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.version_converter import ConvertError, convert_version

from rt3d_tvm.arguments import as_path
from rt3d_tvm.compile.frontend import layer_names
from rt3d_tvm.compile.interface import PREFIX
from rt3d_tvm.compile.onnx_file import label_of, load_external_data, read_model
from rt3d_tvm.compile.onnx_rewrites import remove_dead_nodes, remove_unused_outputs
from rt3d_tvm.data.preprocessing import NAMES, Description, from_json
from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.numerics.non_finite import in_graph, refuse
from rt3d_tvm.quantize.session import exact_session

# The first whose QuantizeLinear and DequantizeLinear have an axis, for a scale per filter.
LEAST_OPSET = 13
# The graph that noise is measured in holds a model's float32 and int8 weights, and a protobuf
# message 2 GiB: these many bytes, a fourth of them again, and 32 MiB for the graph.
MOST_BYTES = (2**31 - 2**25) * 4 // 5
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A Conv, or a product with a constant matrix.

    name: as `rt3d_tvm.compile.frontend.layer_names` has it; node: in the graph, where it is unique.
    axis: that of the filters in the weight. result: the tensor it gives, after a ReLU or Clip that
    is its only reader. why_not: why it cannot be quantised, None where it can.
    """

    name: str
    node: str
    weight: str
    axis: int
    result: str
    why_not: str | None


@dataclass(frozen=True, kw_only=True)
class FloatModel:
    """The graph, with weights in it, the shapes of its tensors, and a name for each node."""

    path: Path
    proto: onnx.ModelProto
    layers: tuple[Layer, ...]

    @property
    def manifest(self) -> dict:
        """How the model is called, in the fields that a manifest has for it."""
        constants = {tensor.name for tensor in self.proto.graph.initializer}
        inputs = [value for value in self.proto.graph.input if value.name not in constants]
        return {
            "inputs": [_signature(value) for value in inputs],
            "outputs": [_signature(value) for value in self.proto.graph.output],
            **_description(self.proto, self.path).as_fields(),
        }

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The layers' weights by the tensors' names."""
        wanted = {layer.weight for layer in self.layers}
        held = self.proto.graph.initializer
        return {t.name: numpy_helper.to_array(t) for t in held if t.name in wanted}


def read_float_model(path: str | Path) -> FloatModel:
    """Read an ONNX file that `rt3d compile` accepts; an opset below 13 is raised to 13.

    InputError for one that is not accepted, is quantised already, has weights that are no float32
    or not finite, or has no layer; and for one whose opset cannot be raised.
    """
    path = as_path(path, "path")
    proto = read_model(path)
    _refuse_quantised(proto, path)
    names = layer_names(path, transposed=False)
    if not names:
        raise InputError(
            f"{path}: no Conv, and no Gemm or MatMul with a constant matrix: there is nothing to "
            "quantise"
        )
    load_external_data(proto, path)
    if proto.ByteSize() > MOST_BYTES:
        raise InputError(
            f"{path}: {proto.ByteSize()} bytes with its weights; up to {MOST_BYTES} can be "
            "quantised"
        )
    refuse(in_graph(proto), where=path)
    remove_dead_nodes(proto)
    remove_unused_outputs(proto)
    proto = _raised(proto, path)
    fold_constants(proto)
    _plain_biases(proto)
    _drop_unread(proto)
    _name_nodes(proto)
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    layers = tuple(
        _layer(proto, name, node) for name, node in zip(names, _layer_nodes(proto), strict=True)
    )
    _refuse_other_types(proto, layers, path)
    return FloatModel(path=path, proto=proto, layers=layers)


def _refuse_quantised(proto: onnx.ModelProto, path: Path) -> None:
    for node in proto.graph.node:
        if node.op_type in _QUANTISED or node.op_type.startswith(("QLinear", "DynamicQuantize")):
            raise InputError(
                f"{path}: is quantised already: node {label_of(node)} is a {node.op_type}; the "
                "float32 model that it was made of is accepted"
            )


def _refuse_other_types(proto: onnx.ModelProto, layers: tuple[Layer, ...], path: Path) -> None:
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    for layer in layers:
        tensor = held.get(layer.weight)
        if tensor is not None and tensor.data_type != TensorProto.FLOAT:
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
            raise InputError(f"{path}: weight of layer {layer.name}: {kind}; float32 is accepted")


def _raised(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model in an opset that can say a scale per filter."""
    (opset,) = (e.version for e in proto.opset_import if e.domain in ("", "ai.onnx"))
    if opset >= LEAST_OPSET:
        return proto
    try:
        raised = convert_version(proto, LEAST_OPSET)
    except (ConvertError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{path}: opset {opset} cannot be raised to {LEAST_OPSET}, which a scale per filter "
            f"needs: {words_of(error, lines=1)}; export again with opset_version=18"
        ) from error
    del raised.metadata_props[:]
    raised.metadata_props.extend(proto.metadata_props)
    return raised


def fold_constants(proto: onnx.ModelProto) -> None:
    """Store what is computed of constants alone, which is where readers look for weights."""
    graph = proto.graph
    constants = {"", *(tensor.name for tensor in graph.initializer)}
    folded, kept = [], []
    for node in graph.node:
        if constants.issuperset(node.input):
            constants.update(node.output)
            folded.append(node)
        else:
            kept.append(node)
    made = {name for node in folded for name in node.output}
    read = {name for node in kept for name in node.input}
    wanted = sorted(made & (read | {value.name for value in graph.output}))
    if wanted:
        part = onnx.ModelProto()
        part.CopyFrom(proto)
        for field in (part.graph.node, part.graph.output, part.graph.input):
            del field[:]
        part.graph.node.extend(folded)
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        values = exact_session(part).run(None, {})
        pairs = zip(wanted, values, strict=True)
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in pairs)
    del graph.node[:]
    graph.node.extend(kept)


def _plain_biases(proto: onnx.ModelProto) -> None:
    """Let each Gemm add a bias [N], beta times what it was.

    The quantiser has no other shape in mind, and it forgets beta.
    """
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    for index, node in enumerate(proto.graph.node):
        if node.op_type != "Gemm" or len(node.input) < 3 or node.input[2] not in held:
            continue
        bias = numpy_helper.to_array(held[node.input[2]])
        beta = next((a.f for a in node.attribute if a.name == "beta"), 1.0)
        rows = bias.shape[:-1] == (1,)
        if beta == 1 and not rows:
            continue
        plain = np.float32(beta) * (bias[0] if rows else bias)
        node.input[2] = f"{node.input[2]}/{index}"
        proto.graph.initializer.append(numpy_helper.from_array(plain, node.input[2]))
        kept = [a for a in node.attribute if a.name != "beta"]
        del node.attribute[:]
        node.attribute.extend(kept)


def _drop_unread(proto: onnx.ModelProto) -> None:
    """Drop constants that nothing reads, of which ONNX Runtime would warn."""
    read = {name for node in proto.graph.node for name in node.input}
    read.update(value.name for value in proto.graph.output)
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in read]
    dropped = {tensor.name for tensor in proto.graph.initializer} - read
    inputs = [value for value in proto.graph.input if value.name not in dropped]
    for field, values in ((proto.graph.initializer, kept), (proto.graph.input, inputs)):
        del field[:]
        field.extend(values)


def _name_nodes(proto: onnx.ModelProto) -> None:
    """Give each node a name of its own: the quantiser leaves nodes out by their names."""
    used: set[str] = set()
    for node in proto.graph.node:
        name, number = node.name or node.output[0], 1
        while name in used:
            number += 1
            name = f"{node.name or node.output[0]}#{number}"
        node.name = name
        used.add(name)


def _layer_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that `layer_names` names, in its order; none is transposed."""
    ranks = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
    for value in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output):
        ranks[value.name] = len(value.type.tensor_type.shape.dim)
    constants = {tensor.name for tensor in proto.graph.initializer}
    return [
        node
        for node in proto.graph.node
        if node.op_type == "Conv"
        or (
            node.op_type in ("Gemm", "MatMul")
            and node.input[1] in constants
            and [ranks.get(name) for name in node.input[:2]] == [2, 2]
        )
    ]


def _layer(proto: onnx.ModelProto, name: str, node: onnx.NodeProto) -> Layer:
    return Layer(
        name=name,
        node=node.name,
        weight=node.input[1],
        axis=_axis(node),
        result=_result(proto, node),
        why_not=_why_not(proto, node),
    )


def _result(proto: onnx.ModelProto, node: onnx.NodeProto) -> str:
    readers = [other for other in proto.graph.node if node.output[0] in other.input]
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        return readers[0].output[0]
    return node.output[0]


def _why_not(proto: onnx.ModelProto, node: onnx.NodeProto) -> str | None:
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    for name in filter(None, node.input[1:]):
        if name not in held:
            return f"{name} is computed in the graph, not stored"
    if len(node.input) > 2 and node.input[2]:
        shape, filters = list(held[node.input[2]].dims), _filters(node, held[node.input[1]])
        if shape != [filters]:
            return f"its bias has the shape {shape}; [{filters}] can be quantised"
    return None


def _axis(node: onnx.NodeProto) -> int:
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def _filters(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    return weight.dims[_axis(node)]


def _description(proto: onnx.ModelProto, path: Path) -> Description:
    keys = {PREFIX + name: name for name in NAMES}
    texts = {keys[e.key]: e.value for e in proto.metadata_props if e.key in keys}
    return from_json(texts, f"{path}: metadata")


def _signature(value: onnx.ValueInfoProto) -> dict:
    # A batch that is left open is fed one clip at a time.
    axes = value.type.tensor_type.shape.dim
    shape = [axis.dim_value if axis.HasField("dim_value") else 1 for axis in axes]
    return {"name": value.name, "shape": shape, "dtype": "float32"}
