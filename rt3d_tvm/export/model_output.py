"""What a torch model gives for a clip, or why it cannot be exported."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.export.named_tensors import OUTPUT_NAME, Call, named
from rt3d_tvm.prune.inputs import leaves
from rt3d_tvm.prune.probe import inside_wrappers

# Of these ONNX has tensors, and numpy arrays to compare them with.
_OUTPUTS = (
    *(torch.float32, torch.float16, torch.float64, torch.bool),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8),
)


def exportable(model: nn.Module, *, several: bool = False) -> nn.Module:
    """The model without wrappers, or a copy of it where its weights were made in inference mode.

    Those cannot be written to outside of it, which some layers do. InputError for weights that have
    no values yet, and, but for ``several``, for a model that takes something else than one input.
    """
    model = inside_wrappers(model)
    name = type(model).__name__
    for what, tensor in _tensors(model):
        if is_lazy(tensor):
            raise InputError(
                f"{what} of this {name} has no shape yet, and would get random values: run the "
                "model once and train it, or load its weights"
            )
        if tensor.is_meta:
            raise InputError(f"{what} of this {name} is on the meta device: it has no values")
    try:
        inputs = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # one that is not written in Python
        inputs = []
    needed = [
        each.name
        for each in inputs
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if len(needed) > 1 and not several:
        raise InputError(
            f"this {name} takes {len(needed)} inputs ({', '.join(needed)}); example_inputs=, in "
            "place of one input_shape, says what they are"
        )
    if any(tensor.is_inference() for _, tensor in _tensors(model)):
        return copy.deepcopy(model)
    return model


def outputs_of(model: nn.Module, call: Call) -> dict[str, np.ndarray]:
    """The model's outputs by name; InputError where there is no such thing."""
    name = type(model).__name__
    try:
        given = model(*call.args, **call.kwargs)
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        shapes = [list(tensor.shape) for tensor in call.inputs.values()]
        taken = f"an input {shapes[0]}" if len(shapes) == 1 else f"inputs {shapes}"
        raise InputError(
            f"this {name} does not take {taken}: {words_of(error, lines=1)}"
        ) from error
    outputs = named(given, OUTPUT_NAME, taken=call.inputs)
    strange = [each for each in leaves(given) if not isinstance(each, (Tensor, type(None)))]
    if not outputs or strange:
        raise InputError(
            f"this {name} gives a {_described(strange[0] if strange else given)}; exported are "
            "models that give tensors, in tuples, lists and dicts: wrap it in a module that does"
        )
    for output in outputs.values():
        if output.dtype not in _OUTPUTS or output.layout is not torch.strided:
            raise InputError(
                f"this {name} gives {output.dtype}, {output.layout}; numbers are exported"
            )
        if not output.numel():
            raise InputError(f"this {name} gives an empty output, of shape {list(output.shape)}")
    return {key: output.numpy() for key, output in outputs.items()}


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        yield f"parameter {name!r}", parameter
    for name, buffer in model.named_buffers():
        yield f"buffer {name!r}", buffer


def _described(output: object) -> str:
    """A type, and what is in it, for a message."""
    kind = type(output).__name__
    if isinstance(output, dict):
        return f"{kind} of {', '.join(map(repr, output))}" if output else f"{kind} of nothing"
    if isinstance(output, (list, tuple)):
        return f"{kind} of {len(output)}"
    return kind
