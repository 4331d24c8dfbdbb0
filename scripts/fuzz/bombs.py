"""ONNX files of some kilobytes that ask for gigabytes."""

from __future__ import annotations

from random import Random

import numpy as np
import onnx
from onnx import helper, numpy_helper


def bombed(rng: Random, model: onnx.ModelProto) -> None:
    """Let a model need a huge constant, or huge activations."""
    kind = rng.choice(("fill", "pad", "expand", "tile", "concat", "pads"))
    if kind == "pads":
        _pads(rng, model.graph)
        return
    nodes = _constant(rng, model.graph, kind)
    nodes.append(helper.make_node("ReduceMean", nodes[-1].output[:1], ["bomb_mean"], keepdims=0))
    output = model.graph.output[0].name
    rest = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    for node in rest:
        for i, name in enumerate(node.output):
            if name == output:
                node.output[i] = "before_bomb"
    last = helper.make_node("Add", ["before_bomb", "bomb_mean"], [output])
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest, last])


def _constant(rng: Random, graph: onnx.GraphProto, kind: str) -> list[onnx.NodeProto]:
    """Nodes that make a constant of that many elements of a few."""
    size = rng.choice((1 << 28, 1 << 30, 1 << 33, 1 << 40))
    for name, value in (
        ("bomb0", np.ones(2, "float32")),
        ("bomb_size", np.array([size], "int64")),
        ("bomb_pads", np.array([0, size], "int64")),
    ):
        graph.initializer.append(numpy_helper.from_array(value, name))
    if kind == "concat":
        return [
            helper.make_node("Concat", [f"bomb{i}"] * 2, [f"bomb{i + 1}"], axis=0)
            for i in range(rng.choice((20, 30, 40)))
        ]
    op, inputs = {
        "fill": ("ConstantOfShape", ["bomb_size"]),
        "pad": ("Pad", ["bomb0", "bomb_pads"]),
        "expand": ("Expand", ["bomb0", "bomb_size"]),
        "tile": ("Tile", ["bomb0", "bomb_size"]),
    }[kind]
    return [helper.make_node(op, inputs, ["bombed"])]


def _pads(rng: Random, graph: onnx.GraphProto) -> None:
    """A window's padding that makes the result huge."""
    padded = [a for node in graph.node for a in node.attribute if a.name == "pads"]
    if padded:
        attribute = rng.choice(padded)
        amounts = [rng.choice((1 << 8, 1 << 10, 1 << 20))] * len(attribute.ints)
        del attribute.ints[:]
        attribute.ints.extend(amounts)
