"""The names of a model's inputs and outputs, in the order that an exported graph has them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.inputs import ModelInputs

INPUT_NAME = "clip"
OUTPUT_NAME = "logits"


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a model: its arguments as forward() takes them, and the tensors in them by name.

    One tensor is ``clip``. Several have the names of forward()'s parameters, with what leads to
    them inside: ``pathways_0`` of a list, ``frames_rgb`` of a dict.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: Mapping[str, Tensor]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The inputs as ONNX Runtime takes them."""
        return {name: tensor.numpy() for name, tensor in self.inputs.items()}

    @classmethod
    def of(cls, model: nn.Module, values: ModelInputs) -> Call:
        """InputError where forward() does not take these arguments."""
        try:
            bound = inspect.signature(model.forward).bind(*values.args, **values.kwargs)
        except TypeError as error:
            name = type(model).__name__
            raise InputError(f"this {name} does not take {values}: {error}") from error
        except ValueError:  # a forward() that is not written in Python
            return cls(values.args, values.kwargs, named((*values.args,), INPUT_NAME))
        return cls(bound.args, bound.kwargs, named(dict(bound.arguments), INPUT_NAME))


def named(tree: Any, only: str, *, taken: Mapping[str, object] | None = None) -> dict[str, Tensor]:
    """The tensors of tuples, lists and dicts by name; a single one is called ``only``.

    What has no key is ``only`` with its number. No name is one of ``taken``.
    """
    found = list(_walk(tree, ()))
    if len(found) == 1:
        return {only: found[0][1]}
    names: dict[str, Tensor] = {}
    for path, tensor in found:
        parts = [str(part) for part in path]
        # A path of numbers alone says nothing of what it leads to.
        name = "_".join(parts if not parts[0].isdigit() else [only, *parts])
        name = re.sub(r"\W", "_", name)
        while name in names or name in (taken or {}):
            name += "_"
        names[name] = tensor
    return names


def _walk(tree: Any, path: tuple[object, ...]) -> Iterator[tuple[tuple[object, ...], Tensor]]:
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _walk(item, (*path, key))
    elif isinstance(tree, (tuple, list)):
        keys = getattr(tree, "_fields", range(len(tree)))
        for key, item in zip(keys, tree, strict=True):
            yield from _walk(item, (*path, key))
