"""What a model file says besides its graph: names of input and output, preprocessing, labels.

The importer keeps none of it, so that it goes through the flow as an attribute of ``main``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm import relax

from rt3d_tvm.compile.ir.dataflow import dtype_of, static_shape
from rt3d_tvm.data.preprocessing import NAMES, from_json
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    import onnx
    from tvm import IRModule

# What the keys of an ONNX file's metadata begin with, so that they are nobody else's.
PREFIX = "rt3d."
_ATTRIBUTE = "interface"


def with_interface(mod: IRModule, model: onnx.ModelProto, path: Path) -> IRModule:
    """The module that was imported from the model, with what `interface_of` reads.

    InputError for metadata of this project that is damaged or does not fit the model; files by
    others have none.
    """
    main, constants = mod["main"], {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    outputs = [value.name for value in model.graph.output]
    described = from_json(_metadata(model, path), f"{path}: metadata")
    result = main.body.body
    given = [result] if len(outputs) == 1 else [relax.Var("", ty) for ty in result.ty.fields]
    interface: dict[str, Any] = {
        "inputs": [_signature(*pair) for pair in zip(inputs, main.params, strict=True)],
        "outputs": [_signature(*pair) for pair in zip(outputs, given, strict=True)],
        **described.as_fields(),
    }
    try:
        described.check(interface["inputs"][0]["shape"], interface["outputs"][0]["shape"])
    except InputError as error:
        raise InputError(f"{path}: metadata: {error}; export it again") from error
    mod["main"] = main.with_attr(_ATTRIBUTE, json.dumps(interface))
    return mod


def interface_of(mod: IRModule) -> dict:
    """The fields of a manifest that say how the model is called.

    ``inputs`` and ``outputs`` have name, shape and dtype; ``preprocessing`` and ``labels`` are None
    where nobody has said them.
    """
    return json.loads(mod["main"].attrs[_ATTRIBUTE])


def _metadata(model: onnx.ModelProto, path: Path) -> dict[str, str]:
    """What the file has under this project's keys."""
    found: dict[str, str] = {}
    for entry in model.metadata_props:
        if entry.key not in [PREFIX + name for name in NAMES]:
            continue
        name = entry.key.removeprefix(PREFIX)
        if name in found or isinstance(entry.value, bytes):  # protobuf's way to say: no UTF-8
            what = "twice" if name in found else "not as text"
            raise InputError(f"{path}: metadata has {entry.key} {what}; once, as JSON, is accepted")
        found[name] = entry.value
    return found


def _signature(name: str, expr: relax.Expr) -> dict:
    return {"name": name, "shape": static_shape(expr), "dtype": dtype_of(expr)}
