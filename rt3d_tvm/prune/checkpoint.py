"""Checkpoint files: tensors as safetensors, everything else as JSON in the same file's header.

One file, so that the two halves cannot come from different moments, and no pickle, so that
opening one runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from rt3d_tvm.errors import InputError
from rt3d_tvm.models.weights import write_tensors

_KEY = "rt3d_pruning"
_PLAIN = (str, int, float, bool, type(None))


def write_checkpoint(path: str | Path, tree: Mapping[str, object]) -> None:
    """Write dicts, lists, tuples, tensors, numbers, text and None. Whole or not at all.

    InputError for anything else in it, with where it is, and for a path that cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    state = json.dumps(_encode(tree, "", tensors))
    write_tensors(path, tensors, {_KEY: state})


def read_checkpoint(path: str | Path) -> dict:
    """What `write_checkpoint` wrote, tensors on the CPU; InputError for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            state = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"no checkpoint {path}") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a checkpoint: {error}") from error
    if state is None:
        raise InputError(f"{path} is not a checkpoint of a Pruner, though a safetensors file")
    try:
        return _decode(json.loads(state), tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: its state and its tensors do not fit") from error


def _encode(value: object, path: str, tensors: dict[str, Tensor]) -> object:
    if isinstance(value, Tensor):
        # A copy: safetensors refuses tensors that share memory, as tied weights do.
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, Mapping):
        # Pairs, because JSON's keys are text and an optimizer's state has numbers for keys.
        items = []
        for key, item in value.items():
            if not isinstance(key, _PLAIN):
                raise _refused(key, f"a key in {path or 'the checkpoint'}")
            items.append([key, _encode(item, f"{path}/{key}" if path else str(key), tensors)])
        return {"dict": items}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_encode(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if isinstance(value, _PLAIN):
        return value
    raise _refused(value, path)


def _refused(value: object, where: str) -> InputError:
    return InputError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold: it takes dicts, "
        "lists, tuples, tensors, numbers, text and None"
    )


def _decode(value: object, tensors: Mapping[str, Tensor]) -> object:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
