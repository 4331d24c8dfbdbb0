"""An ONNX file and the weights beside it, read; what of it is text, and where its tensors are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from rt3d_tvm.compile.limits import check_weights, itemsize
from rt3d_tvm.errors import InputError, words_of

if TYPE_CHECKING:
    import onnx


def read_model(path: Path) -> onnx.ModelProto:
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
    _check_names(model, path)
    return model


def _check_names(model: onnx.ModelProto, path: Path) -> None:
    """Protobuf hands out a string that is not UTF-8 as bytes: nothing below expects that."""
    graph = model.graph
    names = [value.name for value in (*graph.input, *graph.output, *graph.initializer)]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    for tensor in tensors_of(model):
        names += [tensor.name, *(part for e in tensor.external_data for part in (e.key, e.value))]
    for value in graph.input:
        names += [dim.dim_param for dim in value.type.tensor_type.shape.dim]
    broken = [name for name in names if isinstance(name, bytes)]
    if broken:
        raise InputError(f"{path}: damaged: the name {broken[0][:40]!r} in it is not text")


def load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Bring weights stored beside the model into it; none may lie outside the model's folder."""
    from onnx import TensorProto
    from onnx.checker import ValidationError
    from onnx.external_data_helper import load_external_data_for_tensor

    check_weights(tensors_of(model), path)
    folder = path.parent.resolve()
    for tensor in tensors_of(model):
        if tensor.HasField("segment"):
            raise InputError(
                f"{path}: weights of {tensor.name!r} are a segment of a tensor; whole tensors are "
                "accepted"
            )
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
                f"{words_of(error, lines=1)}"
            ) from error


def check_sizes(model: onnx.ModelProto, path: Path) -> None:
    """InputError where a tensor has not as many bytes, or numbers, as its shape and type need."""
    for tensor in tensors_of(model):
        elements = prod(tensor.dims)
        if tensor.HasField("raw_data"):
            held, needed, unit = (
                len(tensor.raw_data),
                elements * itemsize(tensor.data_type),
                "bytes",
            )
        elif (numbers := _numbers_of(tensor)) is not None:
            held, needed, unit = *numbers, "numbers"
        else:
            continue  # of a type that the checks of types refuse
        if held != needed:
            raise InputError(
                f"{path}: weights of {tensor.name!r} have {held} {unit}; {needed} are "
                f"accepted for the shape {list(tensor.dims)}"
            )


def _numbers_of(tensor: onnx.TensorProto) -> tuple[int, int] | None:
    """How many numbers a tensor without raw bytes has and needs; None for an unknown type."""
    from onnx import TensorProto, helper

    try:
        held = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    except KeyError:
        return None
    kind, elements = TensorProto.DataType.Name(tensor.data_type), prod(tensor.dims)
    if kind.startswith("COMPLEX"):
        return held, 2 * elements
    # Two or four to a byte, each byte a number.
    shared = next((8 // bits for bits in (4, 2) if kind.removeprefix("U") == f"INT{bits}"), 1)
    return held, -(-elements // (2 if kind.startswith("FLOAT4") else shared))


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The constants of a model's graph, of the graphs in it and of its functions."""
    yield from _tensors_in(model.graph)
    for function in model.functions:
        yield from _tensors_at(function.node)


def _tensors_in(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _tensors_at(graph.node)


def _tensors_at(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for graph in _graphs_of(attribute):
            yield from _tensors_in(graph)


def _graphs_of(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """The names of what a node reads, and the graphs in it."""
    yield from node.input
    for attribute in node.attribute:
        for graph in _graphs_of(attribute):
            for inner in graph.node:
                yield from read_by(inner)
            yield from (value.name for value in graph.output)


def invalid() -> tuple[type[Exception], ...]:
    """What ONNX's checker and its shape inference raise for a graph that is not valid."""
    import onnx

    return (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        IndexError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    )


def label_of(node: onnx.NodeProto) -> str:
    return node.name or ", ".join(node.output) or node.op_type
