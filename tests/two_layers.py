"""A network of two pruned convolutions: the least that a search has tasks in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rt3d_tvm import cli

SHAPE = (1, 8, 4, 12, 12)


def write_two_layers(path: Path, *, seed: int = 0) -> Path:
    """Write it as ONNX: 32 and 16 filters, half of the kernel groups' locations kept."""
    rng = np.random.default_rng(seed)
    nodes, initializers, data, channels = [], [], "x", SHAPE[1]
    for index, filters in enumerate((32, 16)):
        shape = (filters, channels, 1, 3, 3)
        mask = rng.random((filters // 8, channels // 4, 1, 3, 3)) < 0.5
        weight = rng.standard_normal(shape) * mask.repeat(8, 0).repeat(4, 1)
        bias = rng.standard_normal(filters)
        for kind, value in (("weight", weight), ("bias", bias)):
            initializers.append(numpy_helper.from_array(value.astype("float32"), f"{index}.{kind}"))
        names = [data, f"{index}.weight", f"{index}.bias"]
        attributes = {"strides": [1, 1, 1], "pads": [0, 1, 1] * 2}
        nodes.append(helper.make_node("Conv", names, [f"conv{index}"], **attributes))
        nodes.append(helper.make_node("Relu", [f"conv{index}"], [f"relu{index}"]))
        data, channels = f"relu{index}", filters
    graph = helper.make_graph(
        nodes,
        "two_layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(data, TensorProto.FLOAT, (1, 16, *SHAPE[2:]))],
        initializers,
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def check_refused(onnx_path: Path, work: Path, arguments: list[str], says: str, capsys) -> None:
    """`rt3d tune` with bad input: one line that says it, status 2, and no work directory."""
    assert cli.main(["tune", str(onnx_path), "--work-dir", str(work), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rt3d: error: ") and error.count("\n") == 1
    assert says in error
    assert not work.exists()
