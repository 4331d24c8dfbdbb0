"""What the functions of `rt3d_tvm.api` make of a torch module and its inputs: an ONNX file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rt3d_tvm.arguments import as_path
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from rt3d_tvm.data.preprocessing import Description, Preprocessing

    Model: TypeAlias = str | os.PathLike[str] | nn.Module


@contextlib.contextmanager
def onnx_file(
    model: Model,
    example_inputs: object,
    input_shape: Sequence[int] | None,
    description: Description | None = None,
    *,
    open_batch: bool = False,
) -> Iterator[Path]:
    """The path of an ONNX file: the one given, or one that a module is exported to for a while.

    ``open_batch``: whether a module's file leaves its batch open.
    """
    if isinstance(model, (str, os.PathLike)):
        given = {"example_inputs": example_inputs, "input_shape": input_shape}
        given |= {"labels or preprocessing": description}
        if extra := [name for name, value in given.items() if value is not None]:
            raise InputError(f"{extra[0]}: is of a torch module; {model} says it itself")
        yield as_path(model, "model")
        return
    torch = sys.modules.get("torch")  # who has a module has imported it
    if torch is None or not isinstance(model, torch.nn.Module):
        raise InputError(
            f"model {type(model).__name__}: an ONNX file's path or a torch module is accepted"
        )
    from rt3d_tvm.export import export_onnx
    from rt3d_tvm.files.staging import scratch_folder

    shape, inputs = exported_inputs(example_inputs, input_shape)
    with scratch_folder("rt3d-export-") as folder:
        path = folder / f"{type(model).__name__}.onnx"
        export_onnx(
            model,
            shape,
            path,
            example_inputs=inputs,
            description=description,
            open_batch=open_batch,
        )
        yield path


def exported_inputs(
    example_inputs: object, input_shape: Sequence[int] | None
) -> tuple[Sequence[int] | None, object]:
    """What `export_onnx` takes: the shape of the one input, or else several tensors."""
    if (example_inputs is None) == (input_shape is None):
        raise InputError("example_inputs or input_shape is needed, one of them")
    if input_shape is not None:
        return input_shape, None
    one = example_inputs
    if isinstance(one, (tuple, list)) and len(one) == 1:
        one = one[0]
    shape = getattr(one, "shape", None)
    return (None, example_inputs) if shape is None else (tuple(shape), None)


def description_of(
    labels: Sequence[str] | None, preprocessing: Preprocessing | Mapping[str, Any] | None
) -> Description | None:
    """Labels and preprocessing as one value; None where neither is given."""
    from rt3d_tvm.data.preprocessing import Description, from_fields

    if labels is None and preprocessing is None:
        return None
    if isinstance(preprocessing, Mapping):
        values = {"preprocessing": preprocessing, "labels": labels}
        return from_fields(values, "preprocessing")
    return Description(
        preprocessing=preprocessing, labels=None if labels is None else tuple(labels)
    )
