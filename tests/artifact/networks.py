"""Small networks as ONNX files, and what ONNX Runtime computes with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rt3d_tvm.artifact.verify import reference_session

# Kernel groups of 8 filters x 4 channels: half of their locations are kept.
SHAPE = (1, 8, 4, 8, 8)


def write_network(path: Path, *, seed: int = 0, activation: str = "Relu") -> Path:
    """Two pruned convolutions of one form, one between them that is not, an activation at the end.

    Equal seeds give equal weights: another activation changes the code alone.
    """
    rng = np.random.default_rng(seed)
    kept = np.random.default_rng(0).random((2, 2, 27)) < 0.5
    mask = kept.repeat(8, 0).repeat(4, 1).reshape(16, 8, 3, 3, 3)
    first = (rng.standard_normal((16, 8, 3, 3, 3)) / 15 * mask).astype("float32")
    middle = (rng.standard_normal((8, 16, 3, 3, 3)) / 21).astype("float32")
    nodes, at = [], "x"
    for index in range(3):
        nodes.append(helper.make_node("Conv", [at, f"w{index}"], [f"c{index}"], pads=[1] * 6))
        at = f"a{index}"
        kind = activation if index == 2 else "Relu"
        nodes.append(helper.make_node(kind, [f"c{index}"], [at]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(at, TensorProto.FLOAT, (1, 16, *SHAPE[2:]))],
        [
            numpy_helper.from_array(value, f"w{index}")
            for index, value in enumerate((first, middle, 2 * first))
        ],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def clip(seed: int = 1) -> np.ndarray:
    """An input of normal values."""
    return np.random.default_rng(seed).standard_normal(SHAPE, dtype="float32")


def expected(path: Path, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes."""
    return reference_session(path).run(None, {"x": x})[0]
