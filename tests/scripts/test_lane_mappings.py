"""Positions in lanes beside the shipped kernel: both compute the layer, and the ratio is theirs."""

import pytest

from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.conv_shape import ConvShape
from topi_sparse.cpu.register_tile import vector_unit
from topi_sparse.kernel_group import KernelGroup

TARGETS = ["x86-64-avx2", "host"]
GROUP = KernelGroup(g_m=8, g_n=4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "text", ["16x24x3x3x3@3x6x9", "20x10x1x3x3@2x5x7", "8x16x3x1x1@4x5x5", "16x3x3x3x3@2x8x8"]
)
def test_every_kernel_computes_the_layer(script, text, target):
    lanes, target = script("kernels/lane_mappings.py"), make_target(target)
    if vector_unit(target).by_element:
        pytest.skip("the sweep is for vectors of x86-64")
    layer = lanes.Layer.drawn(ConvShape.parse(text), GROUP, rate=2.0)
    choices = lanes.sweep(layer, GROUP, vector_unit(target))
    choices = [choices[0], choices[-1]]
    found = lanes.measured(layer, GROUP, target, runs=1, choices=choices)
    assert list(found["errors"]) == ["shipped", *map(str, choices)]
    assert all(0 < error <= 1 for error in found["errors"].values())


def test_what_is_computed_wrong_is_seen(script):
    lanes, target = script("kernels/lane_mappings.py"), make_target("host")
    layer = lanes.Layer.drawn(ConvShape.parse("8x8x1x1x1@1x2x8"), GROUP, rate=1.0)
    kernel = lanes.shipped(layer, target)
    shape = (layer.shape.filters, *layer.shape.out)
    right = (layer.weight[:, :, 0, 0, 0] @ layer.x.reshape(8, -1)).reshape(shape)
    assert kernel.out_shape[2:4] == layer.shape.out[:2]
    assert layer.error(right) <= 1
    right[3, 0, 1, 5] *= 1.001
    assert layer.error(right) > 1


def test_the_ratio_is_of_the_best_positions_to_the_shipped_kernel(script):
    times = {"shipped": 2.0, "a": 5.0, "b": 3.0}
    found = script("kernels/lane_mappings.py").compared({"layer": "x", "times_ms": times})
    assert (found["best"], found["ratio"]) == ("b", 1.5)


def test_a_stride_is_left_out_with_a_reason(script, monkeypatch, capsys):
    lanes = script("kernels/lane_mappings.py")
    monkeypatch.setattr("sys.argv", ["lane_mappings.py", "16x16x1x3x3@2x8x8/1x2x2"])
    assert lanes.main() == 0
    assert "is left out: its stride is (1, 2, 2)" in capsys.readouterr().out
