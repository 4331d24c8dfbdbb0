"""Zeros that a Pad puts around what a Conv reads -> the Conv's own padding.

Before::

    Pad(x, pads, 0) -> Conv(pads)
    DequantizeLinear(x, scale, zero) -> Pad(.., 0) -> Q(scale, zero) -> DQ(scale, zero) -> Conv
    Pad(stored, pads, zero) -> DequantizeLinear(.., scale, zero) -> Conv

After, of each::

    x -> Conv(pads + those of the Pad)

A kernel reads zeros from the halo of its input, where a Pad copies all of it. A quantised layer
behind a Pad would find no 8-bit values to read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx


@dataclass(frozen=True)
class _Padded:
    """What a Conv may read instead, and how much it pads: all axes before, then all behind."""

    source: str
    pads: tuple[int, ...]


def merge_pads(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give each Conv the zeros of the Pad before it, in place; the Pad stays for other readers.

    shapes: those of all tensors, fixed.
    """
    graph = _Graph(model, shapes)
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            found = graph.padded(node.input[0])
            if found is not None:
                nodes += graph.take(node, found)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class _Graph:
    def __init__(self, model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
        self.shapes = shapes
        self.by_output = {name: node for node in model.graph.node for name in node.output}
        self.values = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self.values[node.output[0]] = attribute.t
        self.new: list[onnx.NodeProto] = []

    def producer(self, name: str, op: str) -> onnx.NodeProto | None:
        """The node that gives a value, where it is an ``op``."""
        node = self.by_output.get(name)
        return node if node is not None and node.op_type == op else None

    def constant(self, node: onnx.NodeProto, index: int) -> np.ndarray | None:
        """A constant input of a node; None where it has none."""
        from onnx import numpy_helper

        name = node.input[index] if len(node.input) > index else ""
        return numpy_helper.to_array(self.values[name]) if name in self.values else None

    def padded(self, name: str) -> _Padded | None:
        """What a value is with zeros around it; None where it is nothing such."""
        pad = self.producer(name, "Pad")
        if pad is not None:
            return self._of_pad(pad, zero=0.0)
        dequantize = self.producer(name, "DequantizeLinear")
        if dequantize is None:
            return None
        numbers = self._numbers(dequantize)
        stored = self.producer(dequantize.input[0], "Pad")
        if numbers is None:
            return None
        if stored is not None:
            return self._of_stored(dequantize, self._of_pad(stored, zero=numbers[1]))
        quantize = self.producer(dequantize.input[0], "QuantizeLinear")
        pad = None if quantize is None else self.producer(quantize.input[0], "Pad")
        found = None if pad is None else self._of_pad(pad, zero=0.0)
        # A value of the same scale and zero point is not changed by being quantised again.
        source = None if found is None else self.producer(found.source, "DequantizeLinear")
        if source is None or not numbers == self._numbers(quantize) == self._numbers(source):
            return None
        return found

    def take(self, conv: onnx.NodeProto, found: _Padded) -> list[onnx.NodeProto]:
        """Let the Conv pad what it reads; what comes before it is new."""
        import onnx

        new, self.new = self.new, []
        half = len(found.pads) // 2
        more = [*found.pads[2:half], *found.pads[half + 2 :]]
        attributes = {attribute.name: attribute for attribute in conv.attribute}
        own = list(attributes["pads"].ints) if "pads" in attributes else [0] * len(more)
        kept = [attribute for attribute in conv.attribute if attribute.name != "pads"]
        del conv.attribute[:]
        conv.attribute.extend(kept)
        total = [a + b for a, b in zip(own, more, strict=True)]
        conv.attribute.append(onnx.helper.make_attribute("pads", total))
        conv.input[0] = found.source
        return new

    def _of_pad(self, pad: onnx.NodeProto, *, zero: float) -> _Padded | None:
        """What a Pad puts around, where that is ``zero`` everywhere and no batch or channel."""
        if any(a.name == "mode" and a.s != b"constant" for a in pad.attribute):
            return None
        # An input that is there and is no constant is not known.
        given = [index for index, name in enumerate(pad.input) if index and name]
        if 1 not in given or any(self.constant(pad, index) is None for index in given):
            return None
        value, axes = self.constant(pad, 2), self.constant(pad, 3)
        if (0 if value is None else float(value.reshape(-1)[0])) != zero:
            return None
        rank = len(self.shapes[pad.input[0]])
        along = range(rank) if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]
        amounts = np.zeros((2, rank), "int64")
        amounts[:, along] = self.constant(pad, 1).reshape(2, -1)
        if amounts.min() < 0 or amounts[:, :2].any():
            return None
        return _Padded(pad.input[0], tuple(amounts.ravel().tolist()))

    def _of_stored(self, dequantize: onnx.NodeProto, found: _Padded | None) -> _Padded | None:
        """The same of a value that is padded before it is dequantised."""
        if found is None:
            return None
        import onnx

        name = f"{dequantize.output[0]}_without_padding"
        node = onnx.NodeProto()
        node.CopyFrom(dequantize)
        node.input[0], node.output[0] = found.source, name
        node.name = f"{node.name}_without_padding" if node.name else ""
        self.new.append(node)
        self.by_output[name] = node
        return _Padded(name, found.pads)

    def _numbers(self, node: onnx.NodeProto) -> tuple[float, int, str] | None:
        """The scale, zero point and type of a conversion, where each is one constant number."""
        scale, zero = self.constant(node, 1), self.constant(node, 2)
        if scale is None or zero is None or scale.size != 1 or zero.size != 1:
            return None
        return float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]), str(zero.dtype)
