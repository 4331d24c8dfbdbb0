"""An ONNX graph of known shapes that grows at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# So that a case costs milliseconds to run: elements of a tensor, multiply-adds of a layer.
MOST_ELEMENTS, MOST_MACS = 1 << 16, 1 << 24


# Those with a second result that nothing has to read.
WITH_UNUSED = ("MaxPool", "Dropout")


def _by_auto_pad(attributes: dict[str, object]) -> dict[str, object]:
    """Without ``pads`` where ``auto_pad`` says the same."""
    pads, window = list(attributes["pads"]), attributes.get("kernel_shape")
    rest = {name: value for name, value in attributes.items() if name != "pads"}
    if not any(pads):
        return {**rest, "auto_pad": "VALID"}
    if "strides" in attributes or "ceil_mode" in attributes or window is None:
        return attributes
    if max(attributes.get("dilations", [1])) > 1:  # which ONNX Runtime does not pad by itself
        return attributes
    total = [size - 1 for size in window]
    less, more = [each // 2 for each in total], [each - each // 2 for each in total]
    same = {"SAME_UPPER": [*less, *more], "SAME_LOWER": [*more, *less]}
    kind = next((kind for kind, padding in same.items() if padding == pads), None)
    return {**rest, "auto_pad": kind} if kind else attributes


@dataclass
class Graph:
    """A graph that grows at its end; ``shapes`` are those of all activations.

    stored: of a dequantised tensor the 8-bit one, the names of scale and zero point, the
    scale, the type.
    """

    rng: Random
    opset: int
    inputs: list[str] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    stored: dict[str, tuple[str, str, str, float, str]] = field(default_factory=dict)

    def input(self, shape: Sequence[int]) -> str:
        """The name of an input of the model, the first one ``x``."""
        name = f"x{len(self.inputs)}" if self.inputs else "x"
        self.inputs.append(name)
        self.shapes[name] = tuple(shape)
        return name

    def constant(self, value: np.ndarray) -> str:
        """The name of a constant: an initializer, seldom a node."""
        name = f"c{len(self.constants) + len(self.nodes)}"
        tensor = numpy_helper.from_array(np.asarray(value), name)
        if self.rng.random() < 0.1:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.constants.append(tensor)
        return name

    def add(
        self, op: str, inputs: Sequence[str], shape: Sequence[int], **attributes: object
    ) -> str:
        """The name of a node's result, which has that shape."""
        name = f"t{len(self.nodes)}"
        label = f"n{len(self.nodes)}" if self.rng.random() < 0.8 else ""
        outputs = [name]
        if op in WITH_UNUSED and self.rng.random() < 0.2:
            outputs.append(f"{name}_unused")
        if "pads" in attributes and self.rng.random() < 0.3:
            attributes = _by_auto_pad(attributes)
        self.nodes.append(helper.make_node(op, list(inputs), outputs, label, **attributes))
        self.shapes[name] = tuple(shape)
        return name

    def add_several(
        self, op: str, inputs: Sequence[str], shapes: Sequence[Sequence[int]], **attributes: object
    ) -> list[str]:
        """The names of all results of a node."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(len(shapes))]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        for name, shape in zip(names, shapes, strict=True):
            self.shapes[name] = tuple(shape)
        return names

    def ints(self, *values: int) -> str:
        """A constant of int64."""
        return self.constant(np.array(values, np.int64))

    def with_axes(
        self, op: str, x: str, axes: Sequence[int], shape: Sequence[int], since: int, **more: int
    ) -> str:
        """A node whose axes are an attribute before the opset ``since``, then an input."""
        if self.opset < since:
            return self.add(op, [x], shape, axes=list(axes), **more)
        return self.add(op, [x, self.ints(*axes)], shape, **more)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The model with those outputs, of float32."""
        inputs, results = (
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shapes[name])
                for name in names
            ]
            for names in (self.inputs, outputs)
        )
        if self.rng.random() < 0.1:
            results[0].type.tensor_type.ClearField("shape")
        graph = helper.make_graph(self.nodes, "fuzz", inputs, results, self.constants)
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def fits(shape: Sequence[int]) -> bool:
    """Whether a tensor of that shape is small enough, and has an element."""
    return 0 < prod(shape) <= MOST_ELEMENTS
