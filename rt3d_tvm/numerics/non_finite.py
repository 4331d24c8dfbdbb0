"""NaN and infinities among what a model holds: found, counted, named and refused.

A model that diverged while it was trained computes nothing, and where its layers are pruned what it
computes may not show it: a weight that is left out multiplies no NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    import onnx

# Tensors that a message names; of the others it says how many there are.
_NAMED = 3
# Operands for which an infinity is a bound, a filler or a mask, by operator; None: any of them.
_INFINITIES = {
    "Clip": (1, 2),
    "Pad": (2,),
    "Where": None,
    **dict.fromkeys(("Max", "Min", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
}


@dataclass(frozen=True, kw_only=True)
class NonFinite:
    """How many of a tensor's ``size`` values are NaN, and how many infinite."""

    name: str
    nan: int
    infinite: int
    size: int

    def __str__(self) -> str:
        counts = [(self.nan, "NaN"), (self.infinite, "infinite")]
        text = " and ".join(f"{count} {word}" for count, word in counts if count)
        return f"{self.name} ({text} of {self.size})"


def non_finite(name: str, values: np.ndarray) -> NonFinite | None:
    """What of an array is not finite, or None where all of it is; other types than floats are."""
    if not np.issubdtype(values.dtype, np.floating) or np.isfinite(values).all():
        return None
    nan = int(np.isnan(values).sum())
    infinite = int(np.isinf(values).sum())
    return NonFinite(name=name, nan=nan, infinite=infinite, size=values.size)


def in_tensors(tensors: Iterable[tuple[str, np.ndarray]]) -> list[NonFinite]:
    """Those of named arrays that are not finite."""
    return [found for name, values in tensors if (found := non_finite(name, values)) is not None]


def refuse(found: Sequence[NonFinite], *, where: object, command: str | None = None) -> None:
    """InputError that names the tensors and their counts, where there are any.

    ``where``: what holds them. ``command``: the one that takes them where it is told to.
    """
    if not found:
        return
    unless = f", and others with allow_non_finite (rt3d {command} --allow-non-finite)"
    raise InputError(
        f"{where}: weights that are NaN or infinite: {listed(found)}; those of a training that has "
        f"not diverged are accepted{unless if command else ''}"
    )


def listed(found: Sequence[NonFinite]) -> str:
    """The first of the tensors with their counts, and how many there are more."""
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(map(str, found[:_NAMED])) + more


def in_graph(model: onnx.ModelProto) -> list[NonFinite]:
    """The constants of an ONNX graph that are not finite and are no bound, filler or mask.

    Those that a node reads which reads what is no constant, as they are or through nodes that
    are folded; and the attributes that are no finite numbers. Weights must not be external.
    """
    held = {tensor.name: _of_tensor(tensor) for tensor in model.graph.initializer}
    masks = {
        node.input[0] for node in model.graph.node if node.op_type in ("Softmax", "LogSoftmax")
    }
    found: dict[str, NonFinite] = {}
    for node in model.graph.node:
        own = [*_of_attributes(node)]
        if all(name in held or not name for name in node.input):
            read = [each for name in node.input for each in held.get(name, ())]
            held.update((name, [*read, *own]) for name in node.output)
            continue
        read = [
            each
            for index, name in enumerate(node.input)
            for each in held.get(name, ())
            if each.nan or not _takes_infinity(node, index, masks)
        ]
        found.update((each.name, each) for each in (*read, *own))
    return list(found.values())


def _takes_infinity(node: onnx.NodeProto, index: int, masks: set[str]) -> bool:
    """Whether an infinity is nothing unusual there; ``masks``: what a Softmax reads."""
    if node.op_type == "Add":
        return node.output[0] in masks
    operands = _INFINITIES.get(node.op_type, ())
    return operands is None or index in operands


def _of_tensor(tensor: onnx.TensorProto) -> list[NonFinite]:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
        return []
    return in_tensors([(tensor.name, numpy_helper.to_array(tensor))])


def _of_attributes(node: onnx.NodeProto) -> Iterator[NonFinite]:
    """Of a Constant its value, under the name that others read it by; of others each number."""
    from onnx import AttributeProto

    label = node.output[0]
    for attribute in node.attribute:
        name = label if node.op_type == "Constant" else f"{attribute.name} of {label}"
        if attribute.type == AttributeProto.TENSOR:
            yield from (replace(found, name=name) for found in _of_tensor(attribute.t))
        elif attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
            is_one = attribute.type == AttributeProto.FLOAT
            yield from in_tensors([(name, np.array([attribute.f] if is_one else attribute.floats))])
