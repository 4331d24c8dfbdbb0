"""Quantised ONNX files: computed as ONNX Runtime computes them, or refused with the reason."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rt3d_tvm.artifact.load import load
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx, layer_names
from rt3d_tvm.errors import InputError
from tests.processors import runnable
from tests.quantized_models import (
    SHAPE,
    net,
    quantized_by_onnxruntime,
    run_by_onnxruntime,
    separable_net,
)

EIGHT = "quantized_kgs_conv3d"


def inputs(shape=SHAPE):
    return np.random.default_rng(1).standard_normal(shape, dtype="float32")


@pytest.mark.parametrize("target", runnable("host", "x86-64-avx2", "x86-64-avx512"))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"format": "QOperator"},
        {"activations": "int8"},
        {"per_channel": False},
        {"activations": "int8", "format": "QOperator", "per_channel": False},
    ],
)
def test_a_network_computes_every_bit_that_onnx_runtime_does(tmp_path, options, target):
    path = quantized_by_onnxruntime(tmp_path, net(3), **options)
    manifest = compile_onnx(path, tmp_path / "artifact", target=target)
    kernels = {layer["name"]: layer["kernel"] for layer in manifest["layers"]}
    assert {kernels.pop("a"), kernels.pop("b")} == {"kgs_conv2plus1d"}
    assert [*kernels.values()] == [EIGHT] * 4
    np.testing.assert_array_equal(
        load(tmp_path / "artifact").run(inputs()), run_by_onnxruntime(path, inputs())
    )


def test_pictures_are_computed_like_clips_of_one_frame(tmp_path):
    path = quantized_by_onnxruntime(tmp_path, net(2))
    manifest = compile_onnx(path, tmp_path / "artifact")
    assert [layer["kernel"] for layer in manifest["layers"]] == [EIGHT] * 6
    x = inputs(SHAPE[:2] + SHAPE[3:])
    np.testing.assert_array_equal(load(tmp_path / "artifact").run(x), run_by_onnxruntime(path, x))


@pytest.mark.parametrize(
    ("axes", "target", "options"),
    [
        (3, "host", {}),
        (3, "host", {"activations": "int8"}),
        (2, "host", {"format": "QOperator"}),
        (2, "x86-64-avx2", {}),
    ],
)
def test_a_depthwise_separable_network_stays_in_8_bits(tmp_path, axes, target, options):
    path = quantized_by_onnxruntime(tmp_path, separable_net(axes), **options)
    manifest = compile_onnx(path, tmp_path / "artifact", target=target)
    kernels = {layer["name"]: layer["kernel"] for layer in manifest["layers"]}
    assert {kernels.pop("a"), kernels.pop("d")} == {"quantized_depthwise_conv3d"}
    assert [*kernels.values()] == [EIGHT] * 6
    assert manifest["layout_changes"] == 2
    x = inputs(SHAPE if axes == 3 else SHAPE[:2] + SHAPE[3:])
    np.testing.assert_array_equal(load(tmp_path / "artifact").run(x), run_by_onnxruntime(path, x))


def test_from_the_clip_to_the_classes_nothing_is_unpacked(tmp_path):
    path = quantized_by_onnxruntime(tmp_path, net(3))
    manifest = compile_onnx(path, tmp_path / "artifact")
    packs = [call for call in manifest["calls"] if "pack" in call["function"]]
    assert len(packs) == manifest["layout_changes"] == 2


def test_layers_are_named_after_their_weights(tmp_path):
    names = {}
    for form in ("QDQ", "QOperator"):
        names[form] = layer_names(quantized_by_onnxruntime(tmp_path, net(3), format=form))
    # The quantiser changes the order of the nodes, where it is free.
    for found in names.values():
        assert sorted(found) == ["a", "b", "c", "fc", "short", "stem"]
        assert (found[0], found[-1]) == ("stem", "fc")


def test_a_layer_that_is_left_in_float_is_computed_in_float(tmp_path):
    path = quantized_by_onnxruntime(tmp_path, net(3), exclude=["b"])
    manifest = compile_onnx(path, tmp_path / "artifact")
    kernels = {layer["name"]: layer["kernel"] for layer in manifest["layers"]}
    assert kernels.pop("b") != EIGHT
    assert set(kernels.values()) == {EIGHT}
    got, wanted = load(tmp_path / "artifact").run(inputs()), run_by_onnxruntime(path, inputs())
    # Float32 sums are rounded otherwise: some steps of the scale behind them, of 1 in 127.
    assert abs(got - wanted).max() <= 0.02 * abs(wanted).max()


def test_opencl_computes_a_quantised_network_in_float(tmp_path):
    path = quantized_by_onnxruntime(tmp_path, net(3))
    manifest = compile_onnx(path, tmp_path / "artifact", target="opencl")
    assert {layer["dtype"] for layer in manifest["layers"]} == {"float32"}


THREE = np.uint8(3)


def qdq(scale=0.1, zero=THREE, *, x="x", **attributes):
    """x, quantised and dequantised, as y."""
    names = ["scale", "zero"]
    nodes = [
        helper.make_node("QuantizeLinear", [x, *names], ["q"], "quantize", **attributes),
        helper.make_node("DequantizeLinear", ["q", *names], ["y"], "dequantize", **attributes),
    ]
    constants = [
        numpy_helper.from_array(np.asarray(scale, "float32"), "scale"),
        numpy_helper.from_array(np.asarray(zero), "zero"),
    ]
    return nodes, constants


def model(nodes, constants, opset=21):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("scale", [0.1, 1e-6, 3e4])
@pytest.mark.parametrize("zero", [np.uint8(0), np.uint8(255), np.int8(-128), np.int8(5)])
def test_a_pair_rounds_as_onnx_runtime_does(tmp_path, scale, zero):
    path = tmp_path / "m.onnx"
    onnx.save(model(*qdq(scale, zero)), path)
    compile_onnx(path, tmp_path / "artifact")
    x = np.rint(inputs() * 20).astype("float32") * np.float32(scale) / 2  # ties as well
    np.testing.assert_array_equal(load(tmp_path / "artifact").run(x), run_by_onnxruntime(path, x))


def test_a_result_that_nothing_reads_is_no_obstacle(tmp_path):
    nodes, constants = qdq()
    nodes[1].output[0] = "unread"
    nodes.append(helper.make_node("Relu", ["x"], ["y"]))
    onnx.save(model(nodes, constants), tmp_path / "m.onnx")
    compile_onnx(tmp_path / "m.onnx", tmp_path / "artifact")
    np.testing.assert_array_equal(
        load(tmp_path / "artifact").run(inputs()), np.maximum(inputs(), 0)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0.0}, "node quantize: its scale holds 0; numbers above 0 are accepted"),
        ({"scale": np.nan}, "node quantize: its scale holds nan; numbers above 0"),
        ({"scale": -1.0}, "node quantize: its scale holds -1; numbers above 0"),
        ({"scale": np.inf}, "node quantize: its scale holds inf; numbers above 0"),
        ({"zero": np.uint16(3)}, "node quantize: type uint16 is not accepted; uint8 and int8 are"),
        ({"zero": np.int16(3)}, "node quantize: type int16 is not accepted; uint8 and int8 are"),
        (
            {"scale": np.full(3, 0.1), "zero": np.zeros(3, "uint8"), "axis": 1},
            "node quantize: 3 scales for a tensor that is computed; one is accepted",
        ),
        (
            {
                "scale": np.full((1, 3, 2, 8, 8), 0.1),
                "zero": np.zeros((1, 3, 2, 8, 8), "uint8"),
                "axis": 2,
                "block_size": 2,
            },
            "node quantize: scales for blocks are not accepted",
        ),
    ],
)
def test_what_is_not_accepted_is_named(tmp_path, arguments, message):
    onnx.save(model(*qdq(**arguments)), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=message):
        import_onnx(tmp_path / "m.onnx")


def stored_in_32_bits(name, kind, number):
    """A zero point in the field that ONNX has for small types as well."""
    return TensorProto(name=name, data_type=kind, int32_data=[number])


@pytest.mark.parametrize(
    ("constant", "message"),
    [
        (
            stored_in_32_bits("zero", TensorProto.UINT8, 300),
            "node quantize: its zero point holds 300; uint8 is from 0 to 255",
        ),
        (
            stored_in_32_bits("zero", TensorProto.INT8, -129),
            "node quantize: its zero point holds -129; int8 is from -128 to 127",
        ),
        (
            numpy_helper.from_array(np.zeros(3, "uint8"), "zero"),
            "node quantize: 3 zero points, and 1 for the scale; as many are accepted, or one",
        ),
        (
            numpy_helper.from_array(np.full((1, 1), 0.1, "float32"), "scale"),
            r"node quantize: its scale has the shape \[1, 1\]; one number is accepted",
        ),
    ],
)
def test_a_constant_that_does_not_fit_is_named(tmp_path, constant, message):
    nodes, constants = qdq()
    kept = [each for each in constants if each.name != constant.name]
    onnx.save(model(nodes, [*kept, constant]), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=message):
        import_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("weight", "scales", "axis", "message"),
    [
        (np.zeros((3, 3, 1, 1, 1), "int8"), 2, 0, "2 scales along axis 0, which is 3 long"),
        (np.zeros((3, 3, 1, 1, 1), "int8"), 3, 5, "axis 5 of a tensor of 5 axes; -5 to 4 are"),
        (np.zeros((3, 3, 1, 1, 1), "int16"), 3, 0, "type int16 is not accepted; uint8 and int8"),
        (
            TensorProto(data_type=TensorProto.INT8, dims=[3, 3, 1, 1, 1], int32_data=[200] * 9),
            *(3, 0, "its tensor holds 200; int8 is from -128 to 127"),
        ),
    ],
)
def test_a_weight_that_is_not_accepted_is_named(tmp_path, weight, scales, axis, message):
    nodes, constants = qdq()
    nodes[1].output[0] = "real"
    names = ["w", "scales", "zeros"]
    nodes += [
        helper.make_node("DequantizeLinear", names, ["weight"], "of weight", axis=axis),
        helper.make_node("Conv", ["real", "weight"], ["y"]),
    ]
    if isinstance(weight, np.ndarray):
        zeros = np.zeros(scales, weight.dtype)
        weight = numpy_helper.from_array(weight)
    else:
        zeros = np.zeros(scales, "int8")
    weight.name = "w"
    constants += [
        weight,
        numpy_helper.from_array(np.full(scales, 0.1, "float32"), "scales"),
        numpy_helper.from_array(zeros, "zeros"),
    ]
    onnx.save(model(nodes, constants), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=f"node of weight: {message}"):
        import_onnx(tmp_path / "m.onnx")


def test_a_scale_that_is_computed_is_refused(tmp_path):
    nodes, constants = qdq()
    nodes[0].input[1] = "other"
    nodes.insert(0, helper.make_node("ReduceMean", ["x"], ["other"], keepdims=0))
    onnx.save(model(nodes, constants, opset=13), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="its scale 'other' is not a constant"):
        import_onnx(tmp_path / "m.onnx")


def test_the_manifest_says_what_is_stored_in_eight_bit(tmp_path):
    path = quantized_by_onnxruntime(tmp_path, net(3))
    compile_onnx(path, tmp_path / "artifact")
    manifest = json.loads((tmp_path / "artifact" / "manifest.json").read_text())
    assert {layer["dtype"] for layer in manifest["layers"]} == {"uint8"}
    assert {layer["weight_dtype"] for layer in manifest["layers"]} == {"int8"}


def test_an_operator_with_too_few_inputs_is_refused(tmp_path):
    path = quantized_by_onnxruntime(tmp_path, net(3), format="QOperator")
    whole = onnx.load(path)
    for index, node in enumerate(whole.graph.node):
        if not node.op_type.startswith("Q") or node.op_type == "QuantizeLinear":
            continue
        damaged = onnx.ModelProto.FromString(whole.SerializeToString())
        del damaged.graph.node[index].input[2:]
        onnx.save(damaged, tmp_path / "m.onnx")
        with pytest.raises(InputError, match=f"{node.op_type} with 2 inputs and 1 outputs is not"):
            import_onnx(tmp_path / "m.onnx")
