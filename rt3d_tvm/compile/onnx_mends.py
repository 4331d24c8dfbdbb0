"""Operators that TVM's importer reads otherwise than ONNX means them, written as others.

Every function takes a node and gives what comes in its place; the table at the end has them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.compile.onnx_operators import attributes_of, refuse_nodes
from rt3d_tvm.compile.onnx_rewrites import types_of
from rt3d_tvm.compile.onnx_scatters import (
    gathered_elements,
    scattered_elements,
    scattered_rows,
    why_not_scattered,
)

if TYPE_CHECKING:
    import onnx

    Shapes = Mapping[str, Sequence[int]]


def mend_nodes(model: onnx.ModelProto, shapes: Shapes, path: Path) -> None:
    """Write all nodes of the table anew, in place; shapes of all tensors, fixed.

    InputError for indices outside of what they index, and for variances below 0.
    """
    mender = Mender(model, shapes)
    nodes: list[onnx.NodeProto] = []
    refused = []
    for node in model.graph.node:
        if (reason := mender.why_not(node)) is not None:
            refused.append((node, reason))
        written = _FORMS.get(node.op_type)
        nodes += [node] if written is None else written(mender, node)
    refuse_nodes(refused, path)
    model.graph.initializer.extend(mender.constants)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class Mender:
    """Constants, shapes and types of a model; new constants are kept until the end."""

    def __init__(self, model: onnx.ModelProto, shapes: Shapes) -> None:
        self.model, self.shapes = model, shapes
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self.constants: list[onnx.TensorProto] = []

    @cached_property
    def types(self) -> dict[str, int]:
        """The element type of each tensor."""
        computed = types_of(self.model).items()
        found = {name: kind.tensor_type.elem_type for name, kind in computed}
        return found | {name: tensor.data_type for name, tensor in self.stored.items()}

    def value(self, name: str) -> np.ndarray | None:
        """Of a constant; None of what is computed."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.stored[name]) if name in self.stored else None

    def constant(self, name: str, value: np.ndarray) -> str:
        """The name of a new one."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def why_not(self, node: onnx.NodeProto) -> str | None:
        """Why what a node reads gives nothing that is meant, or None."""
        if node.op_type == "BatchNormalization":
            variance = self.value(node.input[4])
            least = 0.0 if variance is None or not variance.size else float(variance.min())
            if least + attributes_of(node).get("epsilon", 1e-5) < 0:
                return f"a variance of {least:g}, which has no root; at least 0 is accepted"
            return None
        if node.op_type not in ("Gather", "GatherElements", "ScatterElements", "ScatterND"):
            return None
        if (index := self.value(node.input[1])) is None or not index.size:
            return why_not_scattered(self, node)
        shape = self.shapes[node.input[0]]
        axes = [attributes_of(node).get("axis", 0)]
        if node.op_type == "ScatterND":
            axes = list(range(index.shape[-1]))
        for axis, along in zip(axes, index.reshape(-1, len(axes)).T, strict=True):
            if along.min() < -shape[axis] or along.max() >= shape[axis]:
                return (
                    f"{node.op_type} at {along.min()} to {along.max()} along an axis of "
                    f"{shape[axis]}"
                )
        return None


def _conv_transpose(mender: Mender, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Write ``auto_pad`` and ``output_shape``, of which TVM knows nothing, as ``pads``.

    What is too much goes half to the beginning and half to the end, the odd one to the end with
    SAME_UPPER alone. What lacks is padding of the output.
    """
    from onnx import helper

    given = attributes_of(node)
    way = given.pop("auto_pad", b"NOTSET")
    wanted = given.pop("output_shape", None)
    if way in (b"SAME_UPPER", b"SAME_LOWER") or wanted:
        sizes, rank = mender.shapes[node.input[0]][2:], len(mender.shapes[node.input[0]]) - 2
        ones = [1] * rank
        strides, dilations = given.get("strides", ones), given.get("dilations", ones)
        window = given.get("kernel_shape") or mender.shapes[node.input[1]][2:]
        beyond = list(given.get("output_padding", [0] * rank))
        wanted = (wanted or mender.shapes[node.output[0]])[-rank:]
        begins, ends = [], []
        for axis, size in enumerate(sizes):
            full = strides[axis] * (size - 1) + (window[axis] - 1) * dilations[axis] + 1
            total = full + beyond[axis] - wanted[axis]
            beyond[axis] += max(-total, 0)
            total = max(total, 0)
            begins.append(total // 2 if way == b"SAME_UPPER" else total - total // 2)
            ends.append(total - begins[-1])
        given |= {"pads": [*begins, *ends], "output_padding": beyond}
    elif way == b"VALID":
        given.pop("pads", None)
    yield helper.make_node(node.op_type, node.input, node.output, node.name, **given)


def _gather(mender: Mender, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Write indices at equal steps as a Slice, which copies rows instead of looking each up."""
    from onnx import helper

    index = mender.value(node.input[1])
    axis = attributes_of(node).get("axis", 0)
    steps = (
        None
        if index is None or index.ndim > 1 or not index.size
        else _steps(index.reshape(-1), mender.shapes[node.input[0]][axis])
    )
    if steps is None:
        yield node
        return
    output = node.output[0]
    numbers = zip(("start", "end", "axis", "step"), (*steps[:2], axis, steps[2]), strict=True)
    operands = [
        mender.constant(f"{output}:{name}", np.array([number], np.int64))
        for name, number in numbers
    ]
    sliced = output if index.ndim else f"{output}:slice"
    yield helper.make_node("Slice", [node.input[0], *operands], [sliced], node.name)
    if not index.ndim:
        shape = np.array(mender.shapes[output], np.int64)
        yield helper.make_node(
            "Reshape", [sliced, mender.constant(f"{output}:to", shape)], [output]
        )


def _steps(index: np.ndarray, size: int) -> tuple[int, int, int] | None:
    """Start, end and step of a Slice of an axis of that size; None where there is none."""
    index = np.where(index < 0, index + size, index).astype("int64")
    steps = np.unique(np.diff(index))
    if steps.size > 1 or 0 in steps:
        return None
    step = int(steps[0]) if steps.size else 1
    end = int(index[-1]) + (1 if step > 0 else -1)
    return int(index[0]), end if end >= 0 else -size - 1, step


def _expand(mender: Mender, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Nothing where the shape stays: torch's older exporter expands what it assigns."""
    from onnx import helper

    source, output = node.input[0], node.output[0]
    if list(mender.shapes[source]) == list(mender.shapes[output]):
        node = helper.make_node("Identity", [source], [output], node.name)
    yield node


def _power(mender: Mender, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Write squares and cubes as products, and an exponent in the type of what it is of."""
    from onnx import helper

    base, exponent = node.input
    value, output = mender.value(exponent), node.output[0]
    single = value is not None and value.size == 1 and value.ndim <= len(mender.shapes[base])
    if single and float(value.reshape(-1)[0]) == 2:
        yield helper.make_node("Mul", [base, base], [output], node.name)
    elif single and float(value.reshape(-1)[0]) == 3:
        yield helper.make_node("Mul", [base, base], [f"{output}:square"])
        yield helper.make_node("Mul", [f"{output}:square", base], [output], node.name)
    else:
        if mender.types.get(base) != mender.types.get(exponent):
            cast, exponent = exponent, f"{output}:exponent"
            yield helper.make_node("Cast", [cast], [exponent], to=mender.types[base])
        yield helper.make_node("Pow", [base, exponent], [output], node.name)


def _reduction(mender: Mender, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Write one that reduces nothing as what it is of each number alone."""
    from onnx import helper

    axes = mender.value(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    without = len(node.input) < 2 or not node.input[1] or (axes is not None and not axes.size)
    if not (attributes_of(node).get("noop_with_empty_axes") and without):
        yield node
        return
    op = _OF_ONE.get(node.op_type, "Identity")
    operands = [node.input[0]] * (2 if op == "Mul" else 1)
    yield helper.make_node(op, operands, node.output, node.name)


# What a sum, a norm ... is of a single number, where it is not the number.
_OF_ONE = {"ReduceL1": "Abs", "ReduceL2": "Abs", "ReduceSumSquare": "Mul", "ReduceLogSum": "Log"}
_FORMS: dict[str, Callable[[Mender, onnx.NodeProto], Iterator[onnx.NodeProto]]] = {
    "ConvTranspose": _conv_transpose,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": gathered_elements,
    "Pow": _power,
    "ScatterElements": scattered_elements,
    "ScatterND": scattered_rows,
    **dict.fromkeys(
        (
            *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
            *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
        ),
        _reduction,
    ),
}
