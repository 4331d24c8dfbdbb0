"""Checkpoint files: tensors as safetensors, everything else as JSON in the same file's header.

One file, so that the two halves cannot come from different moments, and no pickle, so that
opening one runs nothing. The header also has a checksum of all of it; files of versions that
wrote none are read without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rt3d_tvm.arguments import as_path
from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.models.weights import write_tensors

_KEY, _CHECKSUM = "rt3d_pruning", "sha256"
_PLAIN = (str, int, float, bool, type(None))
# Dicts in dicts; a training state has about six levels.
_DEEPEST = 64
# Characters of JSON: what is not a tensor. It takes some 20 times as much when it is read.
_LONGEST = 32 << 20
# Of a whole number, as Python reads it back.
_MOST_BITS = 1 << 13
# What a safetensors file can hold.
_DTYPES = (
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
    torch.float8_e8m0fnu,
)
# The name that a safetensors file has for its header's metadata.
_RESERVED = "__metadata__"


def write_checkpoint(path: str | Path, tree: Mapping[str, object]) -> None:
    """Write dicts, lists, tuples, tensors, numbers, text and None. Whole or not at all.

    InputError for anything else in it, with where it is, and for a path that cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    state = json.dumps(_encode(tree, "", tensors, depth=0))
    if len(state) > _LONGEST:
        raise InputError(
            f"{path}: {len(state)} characters of state besides tensors; at most {_LONGEST} are "
            "written: put long lists of numbers into tensors"
        )
    metadata = {_KEY: state, _CHECKSUM: _checksum(state, tensors)}
    write_tensors(path, tensors, metadata)


def read_checkpoint(path: str | Path) -> dict:
    """What `write_checkpoint` wrote, tensors on the CPU; InputError for any other file."""
    path = as_path(path, "path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"no checkpoint {path}") from error
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path} is not a checkpoint: {words_of(error)}") from error
    state = metadata.get(_KEY)
    if state is None:
        raise InputError(f"{path} is not a checkpoint of a Pruner, though a safetensors file")
    if len(state) > _LONGEST:
        raise InputError(f"{path} is damaged: its state is longer than {_LONGEST} characters")
    if metadata.get(_CHECKSUM, "") not in ("", _checksum(state, tensors)):
        raise InputError(f"{path} is damaged: its checksum is not that of its content")
    try:
        tree = _decode(json.loads(state), tensors, depth=0)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: its state and its tensors do not fit") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path} is damaged: it holds a {type(tree).__name__}, not a dict")
    return tree


def _encode(value: object, path: str, tensors: dict[str, Tensor], *, depth: int) -> object:
    if depth > _DEEPEST:
        raise InputError(f"{path[:80]} is nested deeper than {_DEEPEST} levels, or holds itself")
    if isinstance(value, Tensor):
        return {"tensor": _keep(value, path, tensors)}
    if isinstance(value, Mapping):
        # Pairs, because JSON's keys are text and an optimizer's state has numbers for keys.
        items = []
        for key, item in value.items():
            if not isinstance(key, _PLAIN):
                raise _refused(key, f"a key in {path or 'the checkpoint'}")
            inside = f"{path}/{key}" if path else str(key)
            items.append([key, _encode(item, inside, tensors, depth=depth + 1)])
        return {"dict": items}
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {
            kind: [
                _encode(item, f"{path}/{i}", tensors, depth=depth + 1)
                for i, item in enumerate(value)
            ]
        }
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise _refused(value, path, kind=f"number of {value.bit_length()} bits")
    if isinstance(value, _PLAIN):
        return value
    raise _refused(value, path)


def _keep(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    """Take a tensor up under its path, or a name beside it: keys may spell equal paths."""
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_meta:
        raise _refused(tensor, path, kind="tensor that is sparse, nested or without values")
    if tensor.dtype not in _DTYPES:
        raise _refused(tensor, path, kind=f"tensor of {tensor.dtype}")
    name = path.encode("ascii", "backslashreplace").decode()
    while name in tensors or name == _RESERVED:
        name += "'"
    # A copy: safetensors refuses tensors that share memory, as tied weights do.
    tensors[name] = tensor.detach().cpu().contiguous().clone()
    return name


def _refused(value: object, where: str, *, kind: str | None = None) -> InputError:
    return InputError(
        f"{where} is a {kind or type(value).__name__}, which a checkpoint cannot hold: it takes "
        "dicts, lists, tuples, tensors, numbers, text and None"
    )


def _checksum(state: str, tensors: Mapping[str, Tensor]) -> str:
    sums = hashlib.sha256(state.encode())
    for part in _parts(tensors):
        sums.update(part)
    return sums.hexdigest()


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    for name in sorted(tensors):
        tensor = tensors[name]
        yield f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
        if tensor.numel():
            yield tensor.reshape(-1).view(torch.uint8).numpy().data


def _decode(value: object, tensors: Mapping[str, Tensor], *, depth: int) -> object:
    """KeyError, TypeError or ValueError for what `_encode` does not write."""
    if not isinstance(value, dict):
        if not isinstance(value, _PLAIN):
            raise TypeError(f"a {type(value).__name__} that says no kind")
        return value
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind not in ("dict", "list", "tuple") or not isinstance(content, list):
        raise ValueError(f"of no known kind: {kind}")
    if kind == "dict":
        return {_checked_key(key): _decode(item, tensors, depth=depth + 1) for key, item in content}
    items = [_decode(item, tensors, depth=depth + 1) for item in content]
    return tuple(items) if kind == "tuple" else items


def _checked_key(key: object) -> object:
    if not isinstance(key, _PLAIN):
        raise TypeError(f"a {type(key).__name__} for a key")
    return key
