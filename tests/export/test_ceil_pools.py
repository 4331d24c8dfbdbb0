"""Pools in ceil mode: what torch computes, in the file, in ONNX Runtime and compiled."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rt3d_tvm.artifact.load import load
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.export import export_onnx

# (pool, sides of the input, whether zeros are put around it first). The last window begins in the
# padding, reaches beyond it, or is whole.
POOLS = [
    (nn.AvgPool3d(2, 2, 1, ceil_mode=True), (6, 13, 16), False),
    (nn.AvgPool3d(2, 2, 1, ceil_mode=True), (5, 5, 5), False),
    (nn.AvgPool3d(3, 2, 1, ceil_mode=True), (4, 7, 8), True),
    (nn.AvgPool3d(3, 2, 1, ceil_mode=True, count_include_pad=False), (4, 7, 8), False),
    (nn.AvgPool3d(2, 2, ceil_mode=True), (5, 7, 9), False),
    (nn.AvgPool3d((1, 3, 2), (1, 3, 2), (0, 1, 1), ceil_mode=True), (3, 6, 7), True),
    (nn.AvgPool2d(3, 3, 1, ceil_mode=True), (6, 8), True),
    (nn.AvgPool2d(2, 3, 1, ceil_mode=True), (5, 7), False),
    (nn.MaxPool3d(2, 2, 1, ceil_mode=True), (5, 13, 16), False),
    (nn.MaxPool3d(3, 2, ceil_mode=True), (4, 6, 8), False),
    (nn.MaxPool3d(2, 3, 1, ceil_mode=True), (4, 5, 6), False),
    (nn.MaxPool2d(2, 2, ceil_mode=True, dilation=2), (7, 8), False),
]


def behind_a_conv(pool):
    torch.manual_seed(0)
    conv = nn.Conv2d if type(pool).__name__.endswith("2d") else nn.Conv3d
    return nn.Sequential(conv(3, 8, 1), pool).eval()


@pytest.mark.parametrize(("pool", "sides", "padded"), POOLS, ids=lambda value: str(value))
def test_a_ceil_pool_keeps_its_shape_and_values(pool, sides, padded, tmp_path):
    """The export compares both with ONNX Runtime's."""
    model, path = behind_a_conv(pool), tmp_path / "m.onnx"
    report = export_onnx(model, (1, 3, *sides), path)
    assert ("Pad" in report.operators) == padded
    (node,) = (n for n in onnx.load(path).graph.node if n.op_type in ("AveragePool", "MaxPool"))
    assert not any(each.name == "ceil_mode" and each.i for each in node.attribute)


@pytest.mark.parametrize("index", [0, 2, 3, 8])
def test_so_does_the_compiled_model(index, tmp_path):
    pool, sides, _ = POOLS[index]
    model, path = behind_a_conv(pool), tmp_path / "m.onnx"
    export_onnx(model, (1, 3, *sides), path)
    compile_onnx(path, tmp_path / "artifact")
    x = np.random.default_rng(1).standard_normal((1, 3, *sides), dtype=np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(load(tmp_path / "artifact").run(x), wanted, rtol=1e-5, atol=1e-6)


def test_a_pool_in_floor_mode_is_left_as_it_is(tmp_path):
    model = nn.Sequential(nn.Conv3d(3, 8, 1), nn.AvgPool3d(2, 2, 1))
    report = export_onnx(model, (1, 3, 6, 13, 16), tmp_path / "m.onnx")
    assert dict(report.operators) == {"AveragePool": 1, "Conv": 1}
    nodes = {node.op_type: node for node in onnx.load(tmp_path / "m.onnx").graph.node}
    attributes = {
        each.name: onnx.helper.get_attribute_value(each) for each in nodes["AveragePool"].attribute
    }
    assert attributes["pads"] == [1] * 6
    assert attributes["count_include_pad"] == 1
