"""What of a quantised ONNX file's conversions is accepted: types, scales, zero points, axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.compile.onnx_file import label_of
from rt3d_tvm.compile.onnx_quantized import constant_tensors
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    import onnx

CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
# Since this opset a conversion has an axis; 1 where none is stated.
_AXIS_OPSET, _AXIS = 13, 1


def check_quantization(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], path: Path
) -> None:
    """InputError for conversions that are not of 8 bit, or have no constant scale above zero.

    shapes: those of all tensors, fixed.
    """
    tensors = constant_tensors(model)
    constants = set(tensors)
    (opset,) = (e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        if all(not name or name in constants for name in node.input):
            constants.update(node.output)
        if node.op_type not in CONVERSIONS:
            continue
        where = f"{path}: node {label_of(node)}"
        if any(a.name == "block_size" and a.i for a in node.attribute):
            raise InputError(
                f"{where}: scales for blocks are not accepted; one for a tensor or axis is"
            )
        _check_type(node, tensors, where)
        scale = _check_scale(node, tensors, where)
        if scale.size != 1 and node.input[0] not in constants:
            raise InputError(
                f"{where}: {scale.size} scales for a tensor that is computed; one is accepted, "
                "and more for weights"
            )
        zero = node.input[2] if len(node.input) > 2 else ""
        if zero and zero not in constants:
            raise InputError(f"{where}: its zero point {zero!r} is not a constant of the file")
        if opset >= _AXIS_OPSET:
            _check_axis(node, scale.size, shapes.get(node.input[0]), where)
        if zero and (zeros := _count(zero, tensors, shapes)) not in (1, scale.size):
            raise InputError(
                f"{where}: {zeros} zero points, and {scale.size} for the scale; as many are "
                "accepted, or one"
            )


def _check_scale(
    node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto], where: str
) -> np.ndarray:
    """The scale of a conversion; InputError where it is none."""
    from onnx import numpy_helper

    scale = tensors.get(node.input[1])
    if scale is None:
        raise InputError(f"{where}: its scale {node.input[1]!r} is not a constant of the file")
    values = numpy_helper.to_array(scale).astype("float64")
    wrong = values[~(np.isfinite(values) & (values > 0))]
    if wrong.size:
        raise InputError(
            f"{where}: its scale holds {wrong.flat[0]:g}; numbers above 0 are accepted"
        )
    if values.ndim > 1:
        raise InputError(
            f"{where}: its scale has the shape {list(values.shape)}; one number is accepted, or "
            "one for each along an axis"
        )
    return values


def _check_axis(node: onnx.NodeProto, scales: int, shape: Sequence[int] | None, where: str) -> None:
    """InputError for an axis that the tensor has not, or that is not as long as the scales."""
    if shape is None:
        return
    axis = {a.name: a.i for a in node.attribute}.get("axis", _AXIS)
    stated = any(a.name == "axis" for a in node.attribute)
    if (stated or scales > 1) and not -len(shape) <= axis < len(shape):
        raise InputError(
            f"{where}: axis {axis} of a tensor of {len(shape)} axes; {-len(shape)} to "
            f"{len(shape) - 1} are accepted"
        )
    if scales > 1 and scales != shape[axis]:
        raise InputError(
            f"{where}: {scales} scales along axis {axis}, which is {shape[axis]} long; as many are "
            "accepted, or one"
        )


def _count(
    name: str, tensors: Mapping[str, onnx.TensorProto], shapes: Mapping[str, Sequence[int]]
) -> int:
    """The numbers in a constant."""
    return int(np.prod(list(tensors[name].dims) if name in tensors else shapes[name]))


def _check_type(node: onnx.NodeProto, tensors: Mapping, where: str) -> None:
    """The type that a conversion is from or to, where the file says it, and what it holds."""
    from onnx import TensorProto

    stated = {a.name: a.i for a in node.attribute}.get("output_dtype", 0)
    zero = tensors.get(node.input[2]) if len(node.input) > 2 else None
    source = tensors.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
    accepted = [TensorProto.UINT8, TensorProto.INT8]
    if source is not None:
        accepted.append(TensorProto.INT32)
    for found in (stated, zero and zero.data_type, source and source.data_type):
        if found and found not in accepted:
            name = TensorProto.DataType.Name(found).lower()
            raise InputError(f"{where}: type {name} is not accepted; uint8 and int8 are")
    for what, tensor in (("zero point", zero), ("tensor", source)):
        if tensor is not None and tensor.data_type in accepted[:2]:
            _check_range(what, tensor, where)


def _check_range(what: str, tensor: onnx.TensorProto, where: str) -> None:
    """InputError for numbers of 32 bits that stand for some of 8, and are none of these."""
    from onnx import TensorProto

    name = TensorProto.DataType.Name(tensor.data_type).lower()
    limits, stored = np.iinfo(name), np.array(tensor.int32_data, "int64")
    wrong = stored[(stored < limits.min) | (stored > limits.max)]
    if wrong.size:
        raise InputError(
            f"{where}: its {what} holds {wrong[0]}; {name} is from {limits.min} to {limits.max}"
        )
