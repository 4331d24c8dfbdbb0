"""The grid that default decisions are measured against: what is in it, and one small one timed."""

import json

import numpy as np
import onnx
import pytest

from rt3d_tvm.compile.choices.layer import Choice
from rt3d_tvm.compile.choices.space import decisions, variants
from rt3d_tvm.compile.targets import make_target

TARGETS = ["x86-64-avx2", "x86-64-avx512", "cortex-a77"]


@pytest.fixture
def one_conv(tmp_path):
    """An ONNX file with one temporal convolution, half of it pruned in groups of 16x4."""
    rng = np.random.default_rng(0)
    keep = (rng.random((4, 16, 3, 1, 1)) < 0.5).repeat(16, 0).repeat(4, 1)
    weight = rng.standard_normal((64, 64, 3, 1, 1)).astype("float32") * keep
    shapes = {"x": (1, 64, 8, 14, 14), "y": (1, 64, 8, 14, 14)}
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    conv = onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 0, 0, 1, 0, 0], name="conv")
    graph = onnx.helper.make_graph(
        [conv], "one_conv", [x], [y], [onnx.numpy_helper.from_array(weight, "w")]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 10
    path = tmp_path / "one_conv.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", TARGETS)
def test_the_grid_is_a_part_of_what_the_tuner_searches(script, one_conv, name):
    script, target = script("kernels/default_grid.py"), make_target(name)
    (task,) = script.read_tasks(one_conv, target, 0.0)
    layer = task.layer
    tiles, blockings = 9, 5
    default, *others = script.grid(layer, target, tiles=tiles, blockings=blockings)
    taken, known = decisions(layer.conv, target)
    assert default == Choice(variant=layer.default, decisions=taken)
    assert len({script.name_of(choice) for choice in others}) == tiles + blockings
    assert {choice.variant for choice in others[:tiles]} < set(variants(layer, target))
    for choice in others[tiles:]:
        assert choice.variant == layer.default
        assert all(one in each for one, each in zip(choice.decisions, known, strict=True))


def test_what_is_spread_is_even_and_never_more_than_there_is(script):
    spread = script("kernels/default_grid.py").spread
    assert spread(list(range(10)), 5) == [1, 3, 5, 7, 9]
    assert spread([1, 2], 5) == [1, 2]
    assert spread([], 3) == []


@pytest.mark.full
def test_a_small_grid_is_compiled_timed_and_shown(script, one_conv, tmp_path, monkeypatch):
    grid = script("kernels/default_grid.py")

    def call(*arguments) -> int:
        monkeypatch.setattr("sys.argv", ["default_grid.py", *map(str, arguments)])
        return grid.main()

    out = tmp_path / "grid"
    assert call("show", out) == 2
    assert call("compile", one_conv, "--tiles", 3, "--blockings", 2, "-o", out) == 0
    assert call("time", out) == 0
    assert call("show", out) == 0
    (layer,) = json.loads((out / "grid.json").read_text())["layers"]
    assert list(layer["times_ms"]) == layer["choices"]
    assert layer["default"] == layer["choices"][0]
    medians = layer["times_ms"]
    default, best = medians[layer["default"]], min(medians.values())
    assert layer["ratio"] == pytest.approx(default / best)
