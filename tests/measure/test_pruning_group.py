"""Choosing a kernel group: masks, the rule, the layers it is asked of. Never how long it took."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from rt3d_tvm.artifact.load import load
from rt3d_tvm.cli import main
from rt3d_tvm.conv_shape import ConvShape
from rt3d_tvm.errors import InputError
from rt3d_tvm.measure.pruning_group import (
    GroupTiming,
    choose_group,
    heaviest,
    recommend,
    slowdowns,
)
from rt3d_tvm.measure.synthesised_layer import synthesised_weight, write_layer
from rt3d_tvm.models.conv_shapes import conv_shapes
from rt3d_tvm.tune import defaults, openers
from rt3d_tvm.tune import fleet as devices
from tests.servers import serving
from topi_sparse.cpu.register_tile import columns_by_row_block
from topi_sparse.kernel_group import KernelGroup

EIGHT = "quantized_kgs_conv3d"
SMALL = ConvShape.parse("16x8x1x3x3@2x6x6")
SIZES = [KernelGroup(g_m=4, g_n=4), KernelGroup(g_m=8, g_n=4)]


def scripted(milliseconds):
    """A timer that gives each size its own number, and notes in which order they are asked."""
    asked = []

    def timer(folder, _x):
        def run():
            asked.append(folder.name)
            return milliseconds[folder.name]

        return run

    return timer, asked


@pytest.mark.parametrize("density", [0.1, 0.48, 1.0])
@pytest.mark.parametrize("size", ["4x4", "16x4", "32x2"])
def test_a_mask_is_of_whole_groups_and_of_the_density_asked(size, density):
    group = KernelGroup.parse(size)
    layer = ConvShape.parse("256x32x3x3x3@4x8x8")
    weight = synthesised_weight(layer, group=group, density=density)
    blocks = -(-layer.filters // group.g_m)
    kept = columns_by_row_block(weight, group, blocks)
    assert np.count_nonzero(weight) == kept.sum() * group.g_m * group.g_n  # no group is in part
    assert np.count_nonzero(weight) / weight.size == pytest.approx(density, abs=0.01)
    if density < 1:
        assert len(set(kept)) > 1  # rows are unequal


def test_sizes_that_do_not_divide_the_layer_keep_smaller_groups_at_the_edge():
    layer = ConvShape.parse("45x6x1x3x3@2x6x6")
    weight = synthesised_weight(layer, group=KernelGroup(g_m=16, g_n=4), density=0.5)
    assert weight.shape == (45, 6, 1, 3, 3)
    for rows in (slice(0, 16), slice(16, 32), slice(32, 45)):
        for channels in (slice(0, 4), slice(4, 6)):
            block = weight[rows, channels] != 0
            assert (block.all((0, 1)) | ~block.any((0, 1))).all()


def test_the_file_of_a_layer_is_that_convolution(tmp_path):
    layer = ConvShape.parse("8x4x3x3x3@4x7x7/1x2x2")
    weight = synthesised_weight(layer, group=KernelGroup(g_m=4, g_n=4), density=0.5)
    write_layer(layer, weight, tmp_path / "x.onnx")
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 7, 7), "float32")
    (y,) = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(None, {"x": x})
    expected = torch.nn.functional.conv3d(
        torch.from_numpy(x).double(),
        torch.from_numpy(weight).double(),
        torch.linspace(-1, 1, 8).double(),
        stride=layer.stride,
        padding=layer.padding,
    ).relu()
    assert y.shape == (1, 8, *layer.out) == tuple(expected.shape)
    bound = 4 * 27 * np.finfo("float32").eps * abs(x).max() * abs(weight).max()
    assert np.max(abs(y - expected.numpy())) <= 4 * bound


@pytest.mark.parametrize(("int8", "kernel"), [(False, "kgs_conv3d"), (True, EIGHT)])
def test_what_is_timed_is_compiled_as_every_model_is(int8, kernel):
    seen = {}

    def timer(folder, x):
        artifact = load(folder)
        (entry,) = artifact.manifest["layers"]
        seen[folder.name] = (entry["kernel"], entry["group"], entry["density"], x.shape)
        return lambda: float(np.isfinite(artifact.run(x)).all())

    choice = choose_group({SMALL: 3}, groups=SIZES, densities=[0.5], runs=1, timer=timer, int8=int8)
    assert choice.int8 == int8
    assert {name: found[:2] for name, found in seen.items()} == {
        "4x4": (kernel, "4x4"),
        "8x4": (kernel, "8x4"),
    }
    assert all(found[2] == pytest.approx(0.5, abs=0.02) for found in seen.values())
    assert [timing.samples_ms for timing in choice.timings] == [(1.0,), (1.0,)]
    assert choice.recommended == "4x4"


def test_the_file_of_an_8_bit_layer_has_results_of_many_steps(tmp_path):
    """A scale that does not fit would let nearly all of them be the same."""
    layer = ConvShape.parse("8x4x3x3x3@4x7x7")
    weight = synthesised_weight(layer, group=KernelGroup(g_m=4, g_n=4), density=0.5)
    write_layer(layer, weight, tmp_path / "x.onnx", int8=True)
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 7, 7), "float32")
    (y,) = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(None, {"x": x})
    write_layer(layer, weight, tmp_path / "float.onnx")
    (expected,) = onnxruntime.InferenceSession(tmp_path / "float.onnx").run(None, {"x": x})
    assert len(np.unique(y)) > 30
    assert abs(y - expected).max() < 0.1 * expected.max()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"groups": ["8x2"]}, "group 8x2: 8-bit kernels are made for 4 channels, such as 8x4"),
        ({"target": "arm64-v8.2", "groups": ["8x4"]}, "only host can be timed"),
    ],
)
def test_what_cannot_be_timed_in_8_bits_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        choose_group({SMALL: 1}, densities=[0.5], runs=1, int8=True, **fields)


def test_sizes_are_timed_in_turns():
    timer, asked = scripted({"4x4": 2.0, "8x4": 1.0})
    choice = choose_group({SMALL: 1}, groups=SIZES, densities=[0.5], runs=3, timer=timer)
    assert asked == ["4x4", "8x4"] + ["4x4", "8x4"] * 3
    assert choice.slowdown == {"4x4": 2.0, "8x4": 1.0}
    assert choice.recommended == "8x4"


def timing(group, ms, *, density=0.5, times=1, layer="a"):
    return GroupTiming(
        layer=layer, times=times, density=density, group=group, ms=ms, samples_ms=(ms,)
    )


def test_a_slowdown_is_that_of_the_worst_density_over_all_layers():
    timings = [
        *(timing("4x4", 3.0, times=2), timing("8x4", 2.0, times=2)),  # 6 and 4
        *(timing("4x4", 2.0, layer="b"), timing("8x4", 4.0, layer="b")),  # in all 8 and 8
        *(timing("4x4", 3.0, density=0.2), timing("8x4", 2.0, density=0.2)),
    ]
    assert slowdowns(timings) == {"4x4": 1.5, "8x4": 1.0}


@pytest.mark.parametrize(
    ("slowdown", "share", "expected"),
    [
        ({"4x4": 1.5, "8x4": 1.09, "16x4": 1.0}, 0.1, "8x4"),
        ({"4x4": 1.5, "8x4": 1.09, "16x4": 1.0}, 0.05, "16x4"),
        ({"8x2": 1.0, "4x4": 1.0}, 0.1, "4x4"),
        ({"4x4": 1.4, "8x4": 1.2, "16x4": 1.3}, 0.1, "8x4"),
    ],
)
def test_the_smallest_size_within_the_share_is_recommended(slowdown, share, expected):
    sizes = {KernelGroup.parse(size): worst for size, worst in slowdown.items()}
    assert str(recommend(sizes, share)) == expected


def test_the_heaviest_layers_count_by_how_often_they_occur():
    light, heavy = ConvShape.parse("8x8x1x1x1@4x4x4"), ConvShape.parse("8x8x3x3x3@4x4x4")
    assert list(heaviest({light: 1, heavy: 1}, 1)) == [heavy]
    assert list(heaviest({light: 28, heavy: 1}, 2)) == [light, heavy]


def test_the_layers_of_a_model_are_its_convolutions():
    shapes = conv_shapes("c3d")
    assert sum(shapes.values()) == 8
    assert shapes[ConvShape.parse("512x512x3x3x3@2x7x7")] == 2
    assert sum(shape.macs * times for shape, times in shapes.items()) == pytest.approx(
        38.5e9, rel=0.01
    )


def test_the_convolutions_of_pictures_have_depth_1():
    shapes = conv_shapes("vgg16")
    assert sum(shapes.values()) == 13
    assert shapes[ConvShape.parse("512x512x1x3x3@1x14x14")] == 3
    # VGG-16 with its three fully connected layers, 0.124 G of the total, left out.
    total = sum(shape.macs * times for shape, times in shapes.items())
    assert total == pytest.approx(15.47e9 - 0.124e9, rel=0.002)


@pytest.mark.parametrize("text", ["256x128x3x3x3@8x28x28", "45x3x1x7x7@16x112x112/1x2x2"])
def test_a_shape_is_written_as_it_is_read(text):
    assert str(ConvShape.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("256x128@8x28x28", "is not FILTERSxCHANNELS"),
        ("0x4x3x3x3@4x4x4", "at least 1"),
        ("4x4x3x3x3@4x4x4/0x1x1", "at least 1"),
        ("4x4x1x1x4@4x4x", "is not"),
    ],
)
def test_a_bad_shape_is_named(text, says):
    with pytest.raises(InputError, match=says):
        ConvShape.parse(text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--groups", "5x4"], "5x4"),
        (["--groups", "8x3"], "8x3"),
        (["--densities", "0"], "density 0"),
        (["--densities", "1.5"], "density 1.5"),
        (["--share", "1"], "share 1"),
        (["--target", "cortex-a77"], "only host can be timed"),
        (["--target", "adreno"], "its kernels are made for groups of 16x4"),
        (["--target", "toaster"], "toaster"),
        (["--key", "board"], "its tracker is needed as well"),
        (["--shape", "banana"], "banana"),
        (["--model", "vgg99"], "vgg99"),
        (["--model", "c3d", "--shape", "8x8x1x1x1@4x4x4"], "not allowed with"),
    ],
)
def test_bad_input_is_one_line_that_names_it(arguments, says, capsys):
    assert main(["groups", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rt3d: error: ") and error.count("\n") == 1
    assert says in error


def test_sizes_are_timed_on_a_device_as_well(tracker, tmp_path, monkeypatch):
    """Over RPC, the convolution alone, in sessions that end before their server ends them."""
    path, renewals = tmp_path / "groups.json", []

    class Watched(devices.Devices):
        def __init__(self, opener, count, **how):
            renewals.append(how["renew_s"])
            super().__init__(opener, count, **how)

    monkeypatch.setattr(openers, "Devices", Watched)
    with serving(tracker, "board", 19791):
        where = ["--tracker", "{}:{}".format(*tracker), "--key", "board"]
        arguments = ["--shape", str(SMALL), "--groups", "4x4", "8x4", "--densities", "0.5"]
        assert main(["groups", *arguments, "--runs", "3", *where, "--json", str(path)]) == 0
    assert [value < openers.SESSION_DEADLINES * defaults.DEADLINE_S for value in renewals] == [True]
    choice = json.loads(path.read_text())
    assert [len(entry["samples_ms"]) for entry in choice["timings"]] == [3, 3]
    assert min(value for entry in choice["timings"] for value in entry["samples_ms"]) > 0
    assert choice["recommended"] in ("4x4", "8x4")


def test_the_command_recommends_one_of_the_sizes_asked_about(tmp_path, capsys):
    arguments = ["--shape", str(SMALL), "--groups", "4x4", "8x4", "--densities", "0.5"]
    path = tmp_path / "groups.json"
    assert main(["groups", *arguments, "--runs", "2", "--json", str(path)]) == 0
    choice = json.loads(path.read_text())
    assert choice["recommended"] in ("4x4", "8x4")
    assert [len(entry["samples_ms"]) for entry in choice["timings"]] == [2, 2]
    assert min(choice["slowdown"].values()) == 1.0
    assert f"recommended: {choice['recommended']}" in capsys.readouterr().out
