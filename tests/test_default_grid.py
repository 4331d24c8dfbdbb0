"""The grid that default decisions are measured against: what is in it, and one small one timed."""

import json

import numpy as np
import onnx
import pytest

from rt3d_tvm.targets import make_target

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


@pytest.mark.parametrize("target", TARGETS)
def test_the_default_comes_first_and_every_other_choice_differs(script, one_conv, target):
    grid = script("default_grid.py")
    (layer,) = grid.read_layers(one_conv, make_target(target), 1)
    choices = list(grid.grid(layer))
    conv = layer.conv
    assert (choices[0].g_m, choices[0].chunk) == (conv.group.g_m, conv.tile.chunk)
    assert choices[0].width == min(conv.tile.width, conv.out[4])
    assert len({choice.name for choice in choices}) == len(choices) >= 8
    for choice in choices:
        definition = layer.definition(choice)
        extents = (definition.rows[0], *definition.out[2:4])
        assert all(e % n == 0 for e, n in zip(extents, choice.blocking, strict=True))
        assert definition.weights <= grid.MAX_ISSUED * conv.weights
        # The weight is the layer's own, cut otherwise.
        np.testing.assert_array_equal(layer.packed(choice).decompress(), layer.weight)


def test_a_decision_takes_the_place_of_the_default(script, one_conv):
    grid = script("default_grid.py")
    (layer,) = grid.read_layers(one_conv, make_target("x86-64-avx2"), 1)
    choices = list(grid.grid(layer))
    default, other = choices[0], choices[-1]
    assert default.blocking != other.blocking
    scripts = [grid._decided(layer, choice).script() for choice in (default, other)]
    assert scripts[0] != scripts[1].replace(other.name, default.name)


@pytest.mark.full
def test_a_small_grid_is_compiled_timed_and_shown(script, one_conv, tmp_path, monkeypatch):
    grid = script("default_grid.py")

    def call(*arguments) -> int:
        monkeypatch.setattr("sys.argv", ["default_grid.py", *map(str, arguments)])
        return grid.main()

    out = tmp_path / "grid"
    assert call("show", out) == 2
    assert call("compile", one_conv, "--layers", 1, "-o", out) == 0
    assert call("time", out) == 0
    assert call("show", out) == 0
    (layer,) = json.loads((out / "grid.json").read_text())["layers"]
    assert set(layer["times_ms"]) == {choice["name"] for choice in layer["choices"]}
    assert layer["default"] == layer["choices"][0]["name"]
    assert layer["ratio"] >= 1
