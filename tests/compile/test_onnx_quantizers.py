"""Quantised ONNX as exporters other than onnxruntime's write it, beside ONNX Runtime."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rt3d_tvm.artifact.load import load
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.errors import InputError
from tests.quantized_models import run_by_onnxruntime

EIGHT = "quantized_kgs_conv3d"
SHAPE = (1, 3, 2, 8, 8)
STEP = 0.05  # of every result


class Graph:
    """Nodes and constants, with names that are made up."""

    def __init__(self, *, form="initializer"):
        self.rng, self.form = np.random.default_rng(0), form
        self.nodes, self.constants = [], []

    def constant(self, value, name=None):
        value = np.asarray(value)
        name = name or f"c{len(self.constants) + len(self.nodes)}"
        if self.form == "value_float" and value.dtype == "float32" and value.ndim == 0:
            self.nodes.append(helper.make_node("Constant", [], [name], value_float=float(value)))
        elif self.form == "Constant":
            tensor = numpy_helper.from_array(value, name)
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.constants.append(numpy_helper.from_array(value, name))
        return name

    def op(self, op, *inputs, output=None, **attributes):
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], output, **attributes))
        return output

    def pair(self, x, scale, zero, *, output=None, **attributes):
        """x, quantised and dequantised."""
        numbers = self.constant(np.float32(scale)), self.constant(zero)
        stored = self.op("QuantizeLinear", x, *numbers, **attributes)
        return self.op("DequantizeLinear", stored, *numbers, output=output, **attributes)

    def weight(self, *shape, step=0.005):
        """Of int8, with one scale for each filter: ``step`` to three times that."""
        values = self.constant(self.rng.integers(-127, 128, shape).astype("int8"))
        scales = (step + 2 * step * self.rng.random(shape[0])).astype("float32")
        zeros = np.zeros(shape[0], "int8")
        numbers = self.constant(scales), self.constant(zeros)
        return self.op("DequantizeLinear", values, *numbers, axis=0)

    def normal(self, *shape, name=None):
        return self.constant(self.rng.standard_normal(shape, dtype="float32"), name)

    def save(self, path, out):
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", SHAPE), ("y", out))
        ]
        graph = helper.make_graph(self.nodes, "g", values[:1], values[1:], self.constants)
        opset = helper.make_opsetid("", 14)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


def compared(graph, folder, out, *, steps=0):
    """The layers' kernels by name, the results being as far from ONNX Runtime's as is said."""
    path = folder / "m.onnx"
    graph.save(path, out)
    manifest = compile_onnx(path, folder / "artifact")
    x = np.random.default_rng(1).standard_normal(SHAPE, dtype="float32")
    got, wanted = load(folder / "artifact").run(x), run_by_onnxruntime(path, x)
    assert len(np.unique(wanted)) > 30
    assert abs(got - wanted).max() <= (steps + 0.01) * STEP
    return {layer["name"]: layer["kernel"] for layer in manifest["layers"]}


@pytest.mark.parametrize("form", ["initializer", "Constant"])
@pytest.mark.parametrize("per_filter", [True, False])
def test_a_weight_that_the_graph_quantises_is_stored(tmp_path, per_filter, form):
    """As pytorch-quantization exports for TensorRT: int8 with zero points of 0."""
    graph = Graph(form=form)
    x = graph.pair("x", 0.03, np.int8(0))
    weight = graph.normal(6, 3, 3, 3, 3, name="enc.conv1.weight")
    if per_filter:
        scales = np.linspace(0.01, 0.02, 6)
        weight = graph.pair(weight, scales, np.zeros(6, "int8"), axis=0)
    else:
        weight = graph.pair(weight, 0.015, np.int8(0))
    y = graph.op("Conv", x, weight, graph.normal(6), pads=[1] * 6)
    graph.pair(y, STEP, np.int8(0), output="y")
    kernels = compared(graph, tmp_path, (1, 6, 2, 8, 8))
    assert list(kernels.values()) == [EIGHT]
    if form == "initializer":
        assert list(kernels) == ["enc.conv1"]


def test_a_bias_and_a_summand_that_the_graph_quantises_are_those_numbers(tmp_path):
    graph = Graph()
    bias = graph.pair(graph.normal(6), 0.01, np.int8(0))
    x = graph.pair("x", 0.03, np.uint8(120))
    y = graph.op("Conv", x, graph.weight(6, 3, 3, 3, 3), bias, pads=[1] * 6)
    y = graph.pair(y, STEP, np.uint8(128))
    other = graph.pair(graph.normal(1, 6, 2, 8, 8), 0.02, np.int8(3))
    graph.pair(graph.op("Add", y, other), STEP, np.uint8(128), output="y")
    # ONNX Runtime adds this bias in float32.
    compared(graph, tmp_path, (1, 6, 2, 8, 8), steps=1)


def test_a_scale_may_be_a_constants_number_or_a_copy(tmp_path):
    graph = Graph(form="value_float")
    scale, zero = graph.constant(np.float32(0.03)), graph.constant(np.uint8(9))
    scale = graph.op("Identity", scale)
    x = graph.op("QuantizeLinear", "x", scale, zero)
    x = graph.op("DequantizeLinear", x, scale, zero)
    y = graph.op("Conv", x, graph.weight(6, 3, 3, 3, 3), pads=[1] * 6)
    graph.pair(y, STEP, np.uint8(128), output="y")
    assert list(compared(graph, tmp_path, (1, 6, 2, 8, 8)).values()) == [EIGHT]


def test_a_pool_a_concat_and_a_view_keep_the_layer_behind_them_in_8_bits(tmp_path):
    """No pair of conversions stands between them and the layer, as NNCF leaves it."""
    graph = Graph()
    x = graph.pair("x", 0.03, np.uint8(120))
    pooled = graph.op("MaxPool", x, kernel_shape=[2] * 3, strides=[2] * 3)
    parts = [
        graph.pair(graph.op("Conv", pooled, graph.weight(6, 3, 1, 1, 1)), 0.04, np.uint8(128))
        for _ in range(2)
    ]
    joined = graph.op("Concat", *parts, axis=1)
    y = graph.op("Conv", joined, graph.weight(4, 12, 1, 3, 3, step=0.001))
    flat = graph.op("Flatten", graph.pair(y, STEP, np.uint8(128)))
    y = graph.op("Gemm", flat, graph.weight(64, 16, step=0.002), graph.normal(64), transB=1)
    graph.pair(y, STEP, np.uint8(128), output="y")
    assert list(compared(graph, tmp_path, (1, 64)).values()) == [EIGHT] * 4


def test_a_weight_that_is_turned_in_8_bits_is_a_weight(tmp_path):
    graph = Graph()
    x = graph.op("Flatten", graph.pair("x", 0.03, np.uint8(120)))
    values = graph.constant(graph.rng.integers(-127, 128, (64, 384)).astype("int8"))
    turned = graph.op("Transpose", values, perm=[1, 0])
    numbers = graph.constant(np.float32(0.002)), graph.constant(np.int8(0))
    weight = graph.op("DequantizeLinear", turned, *numbers)
    graph.pair(graph.op("MatMul", x, weight), STEP, np.uint8(128), output="y")
    assert list(compared(graph, tmp_path, (1, 64)).values()) == [EIGHT]


@pytest.mark.parametrize("stored", ["int8", "uint8"])
@pytest.mark.parametrize("op", ["Relu", "Clip", "Concat", "Transpose", "Pad"])
def test_an_operator_on_stored_values_leaves_the_layers_around_it_in_8_bits(tmp_path, op, stored):
    """One of the types is not that of the instructions, and the zero point is no bound's."""
    graph, least = Graph(), np.iinfo(stored).min
    zero = np.asarray(40 + least, stored)
    bounds = [zero - 20, zero + 60]
    joined = graph.rng.integers(0, 99, (1, 2, 2, 6, 6))
    # What it takes behind the values, its attributes, and the channels and columns of its result.
    constants, attributes, channels, columns = {
        "Relu": ([], {}, 8, 6),
        "Clip": ([np.asarray(bound, stored) for bound in bounds], {}, 8, 6),
        "Concat": ([joined.astype(stored)], {"axis": 1}, 10, 6),
        "Transpose": ([], {"perm": [0, 1, 2, 4, 3]}, 8, 6),
        "Pad": ([np.array([0] * 4 + [1] + [0] * 4 + [1]), np.asarray(9, stored)], {}, 8, 8),
    }[op]
    if (op, stored) == ("Relu", "uint8"):
        pytest.skip("ONNX has no Relu of uint8")
    y = graph.op("Conv", graph.pair("x", 0.03, zero), graph.weight(8, 3, 1, 3, 3))
    numbers = graph.constant(np.float32(STEP)), graph.constant(zero)
    value = graph.op("QuantizeLinear", y, *numbers)
    value = graph.op(op, value, *map(graph.constant, constants), **attributes)
    x = graph.op("DequantizeLinear", value, *numbers)
    y = graph.op("Conv", x, graph.weight(6, channels, 3, 3, 3, step=0.002), pads=[1] * 6)
    graph.pair(y, STEP, np.asarray(128 + least, stored), output="y")
    assert set(compared(graph, tmp_path, (1, 6, 2, 6, columns)).values()) == {EIGHT}


def test_a_value_may_be_read_with_another_zero_point_than_it_is_stored_with(tmp_path):
    graph = Graph()
    y = graph.op("Conv", graph.pair("x", 0.03, np.uint8(120)), graph.weight(8, 3, 1, 3, 3))
    numbers = [graph.constant(np.float32(STEP)), graph.constant(np.uint8(90))]
    value = graph.op("QuantizeLinear", y, *numbers)
    x = graph.op("DequantizeLinear", value, numbers[0], graph.constant(np.uint8(7)))
    y = graph.op("Conv", x, graph.weight(6, 8, 3, 3, 3, step=0.002), pads=[1] * 6)
    graph.pair(y, STEP, np.uint8(128), output="y")
    assert set(compared(graph, tmp_path, (1, 6, 2, 6, 6)).values()) == {EIGHT}


def test_scales_along_the_channels_that_are_summed_leave_a_layer_in_float32(tmp_path):
    """A weight as wide as high: how many scales there are does not tell which axis has them."""
    graph = Graph()
    x = graph.op("Flatten", graph.pair("x", 0.03, np.uint8(120)))
    values = graph.constant(graph.rng.integers(-127, 128, (384, 384)).astype("int8"))
    scales = np.linspace(0.0001, 0.004, 384).astype("float32")
    numbers = graph.constant(scales), graph.constant(np.zeros(384, "int8"))
    weight = graph.op("DequantizeLinear", values, *numbers, axis=1)
    y = graph.op("Gemm", x, weight, transB=1)
    graph.pair(y, STEP, np.uint8(128), output="y")
    # Sums of float32 are rounded otherwise.
    assert EIGHT not in compared(graph, tmp_path, (1, 384), steps=1).values()


@pytest.mark.parametrize(("filters", "groups"), [(6, 3), (12, 6), (6, 2)])
def test_groups_are_computed_in_8_bits(tmp_path, filters, groups):
    """Two filters for each channel, two channels for each filter, and in between."""
    graph = Graph()
    x = graph.pair("x", 0.03, np.uint8(120))
    y = graph.op("Conv", x, graph.weight(12, 3, 1, 1, 1))
    x = graph.pair(y, STEP, np.uint8(128))
    if groups == 3:
        x = graph.pair(graph.op("Conv", x, graph.weight(3, 12, 1, 1, 1)), STEP, np.uint8(128))
    channels = 3 if groups == 3 else 12
    weight = graph.weight(filters, channels // groups, 3, 3, 3, step=0.003)
    y = graph.op("Conv", x, weight, pads=[1] * 6, group=groups)
    graph.pair(y, STEP, np.uint8(128), output="y")
    kernels = compared(graph, tmp_path, (1, filters, 2, 8, 8))
    assert set(kernels.values()) == {EIGHT}


@pytest.mark.parametrize("form", ["alone", "in a pair", "stored"])
def test_a_layer_behind_a_pad_is_computed_in_8_bits(tmp_path, form):
    graph = Graph()
    zero = np.uint8(120)
    pads = graph.constant(np.array([0, 0, 0, 1, 2, 0, 0, 1, 0, 1]))
    numbers = graph.constant(np.float32(0.03)), graph.constant(zero)
    x = graph.op("QuantizeLinear", "x", *numbers)
    if form == "stored":
        x = graph.op("DequantizeLinear", graph.op("Pad", x, pads, numbers[1]), *numbers)
    else:
        x = graph.op("Pad", graph.op("DequantizeLinear", x, *numbers), pads)
        x = x if form == "alone" else graph.pair(x, 0.03, zero)
    y = graph.op("Conv", x, graph.weight(6, 3, 2, 3, 3), pads=[0, 0, 1, 0, 1, 0])
    graph.pair(y, STEP, np.uint8(128), output="y")
    assert list(compared(graph, tmp_path, (1, 6, 2, 8, 10)).values()) == [EIGHT]
    manifest = json.loads((tmp_path / "artifact" / "manifest.json").read_text())
    assert not [call for call in manifest["calls"] if "pad" in call["function"]]


@pytest.mark.parametrize("form", ["stored", "Constant", "in a pair"])
@pytest.mark.parametrize("number", [0.0, 0.6])
def test_a_number_that_is_stored_in_8_bits_says_what_an_operator_does(tmp_path, form, number):
    """onnxruntime writes a Pad's value so; here a Clip's bounds too, and a summand that stays."""
    graph = Graph(form="Constant" if form == "Constant" else "initializer")
    scale, zero = 0.03, np.uint8(120)

    def setting(value):
        if form == "in a pair":
            return graph.pair(graph.constant(np.float32(value)), scale, zero)
        numbers = graph.constant(np.float32(scale)), graph.constant(zero)
        stored = graph.constant(np.uint8(round(value / scale) + int(zero)))
        return graph.op("DequantizeLinear", stored, *numbers)

    pads = graph.constant(np.array([0, 0, 0, 1, 2, 0, 0, 1, 0, 1]))
    value = setting(number)
    x = graph.pair("x", scale, zero)
    x = graph.pair(graph.op("Pad", x, pads, value), scale, zero)
    y = graph.op("Conv", x, graph.weight(6, 3, 2, 3, 3), pads=[0, 0, 1, 0, 1, 0])
    y = graph.op("Add", graph.op("Clip", y, setting(-3.0), setting(3.6)), value)
    graph.pair(y, STEP, np.uint8(128), output="y")
    compared(graph, tmp_path, (1, 6, 2, 8, 10), steps=1)
    manifest = json.loads((tmp_path / "artifact" / "manifest.json").read_text())
    assert number or not [call for call in manifest["calls"] if "pad" in call["function"]]


def test_the_factor_of_a_matrix_is_part_of_its_scale(tmp_path):
    graph = Graph()
    x = graph.op("Flatten", graph.pair("x", 0.03, np.uint8(120)))
    weight, bias = graph.weight(64, 384, step=0.002), graph.normal(64)
    y = graph.op("Gemm", x, weight, bias, alpha=0.5, transB=1)
    graph.pair(y, STEP, np.uint8(128), output="y")
    # ONNX Runtime adds this bias in float32.
    assert list(compared(graph, tmp_path, (1, 64), steps=1).values()) == [EIGHT]


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_is_taken_of_packed_values(tmp_path, keepdims):
    graph = Graph()
    y = graph.op("Conv", graph.pair("x", 0.03, np.uint8(120)), graph.weight(32, 3, 1, 3, 3))
    y = graph.pair(graph.op("Relu", y), 0.02, np.uint8(0))
    y = graph.op("ReduceMean", y, axes=[2, 3, 4], keepdims=keepdims)
    y = graph.op("Flatten", graph.pair(y, 0.02, np.uint8(0)))
    y = graph.op("Gemm", y, graph.weight(64, 32, step=0.004), transB=1)
    graph.pair(y, STEP, np.uint8(128), output="y")
    assert list(compared(graph, tmp_path, (1, 64)).values()) == [EIGHT] * 2
    manifest = json.loads((tmp_path / "artifact" / "manifest.json").read_text())
    # That of the clip; one position is plain as it lies.
    assert manifest["layout_changes"] == 1
    assert not [reason for reason in manifest["not_packed"] if "mean" in reason]


def test_an_8_bit_result_is_refused(tmp_path):
    """Its type would be that of the target's instructions, not the file's."""
    graph = Graph()
    graph.op("QuantizeLinear", "x", graph.constant(np.float32(0.03)), graph.constant(np.int8(0)))
    graph.nodes[-1].output[0] = "y"
    graph.save(tmp_path / "m.onnx", SHAPE)
    model = onnx.load(tmp_path / "m.onnx")
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="output 'y': int8; accepted are float, int32, int64"):
        import_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("scales", "reads_stored", "reason"),
    [
        (1, True, "its weight less its zero point is from 0 to 240; what fits int8, -128 to 127"),
        (3, False, "its weight is quantised, and not what it reads"),
        (3, True, None),
    ],
)
def test_the_manifest_says_why_a_quantised_layer_is_computed_in_float(
    tmp_path, scales, reads_stored, reason
):
    graph = Graph()
    x = graph.pair("x", 0.03, np.uint8(120)) if reads_stored else "x"
    if scales == 3:
        weight = graph.weight(3, 3, 1, 3, 3)
    else:  # less its zero point it does not fit int8
        stored = graph.constant(np.arange(81, dtype="uint8").reshape(3, 3, 1, 3, 3) * 3)
        numbers = graph.constant(np.float32(0.005)), graph.constant(np.uint8(0))
        weight = graph.op("DequantizeLinear", stored, *numbers)
    y = graph.op("Conv", x, weight, pads=[0, 1, 1, 0, 1, 1])
    graph.pair(y, STEP, np.uint8(128), output="y")
    graph.save(tmp_path / "m.onnx", SHAPE)
    (layer,) = compile_onnx(tmp_path / "m.onnx", tmp_path / "artifact")["layers"]
    assert (layer["float32_reason"] or "").startswith(reason or "") and bool(reason) == bool(
        layer["float32_reason"]
    )
    assert (layer["kernel"] == EIGHT) == (reason is None)


def test_a_bias_whose_sums_int32_does_not_hold_is_added_in_float32(tmp_path):
    """In steps of its sums, of 1e-10, 3 is more than int32 holds; ONNX Runtime saturates it."""
    graph = Graph()
    bias = graph.constant(np.linspace(-3, 3, 6).astype("float32"))
    x = graph.pair("x", 1e-5, np.uint8(120))
    y = graph.op("Conv", x, graph.weight(6, 3, 3, 3, 3, step=1e-5), bias, pads=[1] * 6)
    graph.pair(y, STEP, np.uint8(128), output="y")
    graph.save(tmp_path / "m.onnx", (1, 6, 2, 8, 8))
    (layer,) = compile_onnx(tmp_path / "m.onnx", tmp_path / "artifact")["layers"]
    assert "with its bias its sums reach" in layer["float32_reason"]
    got = load(tmp_path / "artifact").run(np.zeros(SHAPE, "float32"))
    expected = np.linspace(-3, 3, 6).reshape(1, 6, 1, 1, 1)
    assert abs(got - expected).max() <= STEP / 2 + 1e-6
