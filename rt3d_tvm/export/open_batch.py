"""A file that leaves its batch open: the first axis of every input, for ``compile --batch``.

torch traces a model with two examples of each input, since it takes a size of 1 for a constant.
"""

from __future__ import annotations

import inspect
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.export.named_tensors import Call
from rt3d_tvm.prune.inputs import ModelInputs

_NAME = "batch"


def repeated(values: ModelInputs) -> ModelInputs:
    """Every input twice, one behind the other.

    InputError for inputs without a first axis, or with first axes of several sizes.
    """
    sizes: set[int] = set()

    def twice(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        sizes.add(leaf.shape[0] if leaf.dim() else 0)
        return torch.cat([leaf, leaf]) if leaf.dim() else leaf

    found = values.mapped(twice)
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(
            f"{values}: the first axis of every input is the batch, and is left open; it has to be "
            "of one size in all of them, at least 1"
        )
    return found


def open_axes(model: nn.Module, call: Call) -> Any:
    """What torch's exporter takes as ``dynamic_shapes``: the batch of every tensor."""
    try:
        bound = inspect.signature(model.forward).bind(*call.args, **call.kwargs)
        arguments: Any = dict(bound.arguments)
    except ValueError:  # a forward() that is not written in Python
        arguments = tuple(call.args)
    axes = {0: torch.export.Dim(_NAME)}
    return torch.utils._pytree.tree_map(
        lambda leaf: axes if isinstance(leaf, Tensor) else None, arguments
    )


def check_open(program: torch.onnx.ONNXProgram, name: str) -> None:
    """Call the open axis ``batch``, in place; InputError where torch did not leave it open.

    It has traced one way through the model, and knows for which batches that is the way.
    """
    graph = program.model_proto.graph
    axes = [value.type.tensor_type.shape.dim[0] for value in graph.input]
    ranges = program.exported_program.range_constraints.values()
    limits = [f"a batch of {axis.dim_value}" for axis in axes if axis.HasField("dim_value")]
    limits += [
        f"batches of {each.lower} to {each.upper}"
        for each in ranges
        if each.lower > 1 or isfinite(each.upper)
    ]
    if limits:
        raise InputError(
            f"cannot export this {name} with an open batch: it computes so for {limits[0]} alone; "
            "a model that computes alike for every batch is accepted"
        )
    names = {axis.dim_param for axis in axes}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = _NAME
