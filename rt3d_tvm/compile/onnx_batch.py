"""A batch that a file leaves open, fixed: kernels are made for sizes that are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    import onnx


def fix_batch(model: onnx.ModelProto, batch: int, path: Path) -> None:
    """Give the first axis of every input that leaves it open this size, in place.

    So gets every other axis of the same name. What follows from them is inferred anew. InputError
    where no input leaves its first axis open.
    """
    inputs, axes = _inputs(model), _first_axes(model)
    names = {axis.dim_param for axis in axes if axis.HasField("dim_param")}
    if not leaves_batch_open(model):
        fixed = ", ".join(str(axis.dim_value) for axis in axes)
        raise InputError(
            f"{path}: batch {batch}: the file fixes it, to {fixed}; leave it out, or write the "
            "file with `rt3d export --open-batch`"
        )
    for value in inputs:
        for place, axis in enumerate(value.type.tensor_type.shape.dim):
            if (
                axis.dim_param in names
                if axis.HasField("dim_param")
                else not (place or axis.HasField("dim_value"))
            ):
                axis.dim_value = batch
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def leaves_batch_open(model: onnx.ModelProto) -> bool:
    """Whether an input has no size of its first axis."""
    return any(not axis.HasField("dim_value") for axis in _first_axes(model))


def _first_axes(model: onnx.ModelProto) -> list[onnx.TensorShapeProto.Dimension]:
    shapes = (value.type.tensor_type.shape.dim for value in _inputs(model))
    return [shape[0] for shape in shapes if shape]


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]
