"""What a model may take of the memory, asked of its shapes before anything is read or computed."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx

    Types = Mapping[str, tuple[int, list[int]]]

# Weights, inside the file and beside it: what a protobuf message holds, and ONNX's checker takes.
MAX_WEIGHT_BYTES = 2**31 - 1
# Constants that follow from others, such as a padded or repeated weight: they are computed once,
# when the model is compiled.
MAX_CONSTANT_BYTES = 1 << 30
# All results of a model, though only some are stored at a time. R(2+1)D-18 has about 0.6 GB.
MAX_RESULT_BYTES = 16 << 30


def check_weights(tensors: Iterable[onnx.TensorProto], path: Path) -> None:
    """InputError for weights that take too much memory, by what the file says of them."""
    from onnx import TensorProto

    total = 0
    for tensor in tensors:
        if any(extent < 0 for extent in tensor.dims):
            raise InputError(
                f"{path}: weights of {tensor.name!r} have the shape {list(tensor.dims)}; sizes of "
                "at least 0 are accepted"
            )
        size = prod(tensor.dims) * itemsize(tensor.data_type)
        if tensor.data_location == TensorProto.EXTERNAL:
            size = max(size, _stored_bytes(tensor, path))
        total += size
    if total > MAX_WEIGHT_BYTES:
        raise InputError(
            f"{path}: its weights take {total} bytes; up to {MAX_WEIGHT_BYTES} are accepted"
        )


def check_computed(total: int, node: onnx.NodeProto, path: Path) -> None:
    """InputError where constants that follow from others take too much memory, up to a node.

    total: the bytes of all of them, those of the node too.
    """
    if total > MAX_CONSTANT_BYTES:
        raise InputError(
            f"{path}: node {node.name or node.output[0]!r} ({node.op_type}): constants that are "
            f"computed come to {total} bytes with it; up to {MAX_CONSTANT_BYTES} are accepted"
        )


def check_results(graph: onnx.GraphProto, types: Types, path: Path) -> None:
    """InputError where all results of a model take too much memory.

    types: the element type and shape of each tensor of which they are known.
    """
    results = sum(_result_bytes(node, types) for node in graph.node)
    if results > MAX_RESULT_BYTES:
        raise InputError(
            f"{path}: its results take {results} bytes in all; up to {MAX_RESULT_BYTES} are "
            "accepted"
        )


def _result_bytes(node: onnx.NodeProto, types: Types) -> int:
    known = [types[name] for name in node.output if name in types]
    return sum(prod(shape) * itemsize(elem_type) for elem_type, shape in known)


def _stored_bytes(tensor: onnx.TensorProto, path: Path) -> int:
    """Bytes of external data that would be read: without a length, all behind the offset."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        length, offset = int(entries.get("length", 0)), int(entries.get("offset", 0))
    except ValueError as error:
        raise InputError(
            f"{path}: weights of {tensor.name!r}: external data at {entries}; whole numbers are "
            "accepted as offset and length"
        ) from error
    if length > 0:
        return length
    file = path.parent / entries.get("location", "")
    return max(file.stat().st_size - offset, 0) if file.is_file() else 0


def itemsize(elem_type: int) -> int:
    """Bytes of an element; 1 for a type that numpy has none of."""
    from onnx.helper import tensor_dtype_to_np_dtype

    try:
        return int(tensor_dtype_to_np_dtype(elem_type).itemsize)
    except (KeyError, TypeError):
        return 1
