"""Graphs brought to one form: layers keep their names, and what is equal is computed once."""

import numpy as np
import pytest
from onnx import helper
from tvm import relax

from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.ir.dataflow import static_shape
from rt3d_tvm.compile.onnx_rewrites import merge_equal_nodes
from rt3d_tvm.errors import InputError
from tests.compile.onnx_models import SHAPE, make_model, run_both, tensor, weights


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("bias", [(), ("first",), ("second",)])
def test_layers_of_branches_have_their_own_names(save, op, bias):
    """The result of the first is read last, behind the second's."""
    kernels = {"first": weights(3, 3, 3, 3, 3), "second": weights(3, 3, 1, 1, 1)}
    biases = [f"{name}.bias" for name in bias]
    nodes = [
        helper.make_node(op, ["x", f"{name}.weight", *(b for b in biases if name in b)], [name])
        for name in kernels
    ]
    nodes[0].attribute.append(helper.make_attribute("pads", [1] * 6))
    nodes.append(helper.make_node("Relu", ["second"], ["r"]))
    nodes.append(helper.make_node("Add", ["r", "first"], ["y"]))
    constants = [tensor(f"{name}.weight", value) for name, value in kernels.items()]
    model = make_model(nodes, [*constants, *(tensor(b, weights(3)) for b in biases)])
    module = import_onnx(save(model))
    read = [
        static_shape(binding.value.args[1])[-1]
        for block in module["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and ".nn.conv" in binding.value.op.name
    ]
    names = list(module["main"].attrs["layer_names"])
    assert dict(zip(names, read, strict=True)) == {"first": 3, "second": 1}


@pytest.mark.parametrize("outputs", [("y",), ("y", "b")])
def test_equal_nodes_are_one_layer(save, tmp_path, outputs):
    """Equal weights by other names, an attribute that is as it is by default; then a chain."""
    values = weights(3, 3, 1, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", "one.weight"], ["a"]),
        helper.make_node("Conv", ["x", "two.weight"], ["b"], strides=[1, 1, 1]),
        helper.make_node("Relu", ["a"], ["ra"]),
        helper.make_node("Relu", ["b"], ["rb"]),
        helper.make_node("Conv", ["ra", "one.weight"], ["ca"]),
        helper.make_node("Conv", ["rb", "two.weight"], ["cb"], group=1),
        helper.make_node("Add", ["ca", "cb"], ["y"]),
    ]
    constants = [tensor(f"{name}.weight", values) for name in ("one", "two")]
    path = save(make_model(nodes, constants, outputs=outputs))
    manifest = compile_onnx(path, tmp_path / "artifact")
    assert [layer["name"] for layer in manifest["layers"]] == ["one", "one#2"]
    assert verify(tmp_path / "artifact", path).max_rel_error <= 1e-5


def test_random_nodes_and_those_of_other_inputs_stay_apart():
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["a"]),
        helper.make_node("RandomNormalLike", ["x"], ["b"]),
        helper.make_node("LeakyRelu", ["a"], ["c"], alpha=0.1),
        helper.make_node("LeakyRelu", ["b"], ["d"], alpha=0.1),
        helper.make_node("LeakyRelu", ["b"], ["e"], alpha=0.2),
        helper.make_node("Sum", ["c", "d", "e"], ["y"]),
    ]
    model = make_model(nodes)
    merge_equal_nodes(model)
    assert list(model.graph.node) == nodes


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("axis", [2, -1])
def test_scattered_elements_count_from_the_end(save, reduction, axis):
    """TVM takes an index below 0 as it is, and what is smaller as if it had all places."""
    places = np.random.default_rng(0).permuted(np.arange(4) - 2, axis=0).reshape(1, 1, 4, 1, 1)
    places = (
        np.broadcast_to(places, (1, 3, 4, 2, 1)) if axis == 2 else places.reshape(1, 1, 1, 2, 2)
    )
    node = helper.make_node(
        "ScatterElements", ["x", "places", "new"], ["y"], axis=axis, reduction=reduction
    )
    constants = [tensor("places", places.astype("int64")), tensor("new", weights(*places.shape))]
    got, expected = run_both(save(make_model([node], constants)), SHAPE)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("begin", [0, 1, 2])
@pytest.mark.parametrize("axis", [1, -1])
def test_a_slice_that_is_assigned_is_a_concatenation(save, begin, axis):
    """As torch exports it: each place of the slice along its axis, for all others."""
    shape = [*SHAPE]
    shape[axis] = 1 if axis == 1 else 4
    line = np.arange(shape[axis]).reshape(-1, *[1] * (4 if axis == 1 else 0)) + begin
    places = np.broadcast_to(line, shape).astype("int64")
    node = helper.make_node("ScatterElements", ["x", "places", "new"], ["y"], axis=axis)
    constants = [tensor("places", places), tensor("new", weights(*shape))]
    path = save(make_model([node], constants))
    got, expected = run_both(path, SHAPE)
    np.testing.assert_array_equal(got, expected)
    operators = {
        binding.value.op.name
        for block in import_onnx(path)["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    }
    assert operators <= {"relax.strided_slice", "relax.concat"}


def test_computed_places_of_a_smaller_tensor_are_refused(save):
    nodes = [
        helper.make_node("Slice", ["x", "from", "to", "axes"], ["part"]),
        helper.make_node("Cast", ["part"], ["places"], to=7),
        helper.make_node("ScatterElements", ["x", "places", "part"], ["y"], axis=2),
    ]
    ends = {"from": [0, 0], "to": [2, 2], "axes": [2, 3]}
    constants = [tensor(name, np.array(value, np.int64)) for name, value in ends.items()]
    with pytest.raises(InputError, match="computed places in"):
        import_onnx(save(make_model(nodes, constants)))


def test_gathered_elements_count_from_the_end(save):
    """At places that are computed, from -4 to 3 along an axis of 4."""
    nodes = [
        helper.make_node("Mul", ["x", "four"], ["wide"]),
        helper.make_node("Clip", ["wide", "least", "most"], ["cut"]),
        helper.make_node("Cast", ["cut"], ["places"], to=7),
        helper.make_node("GatherElements", ["x", "places"], ["y"], axis=-3),
    ]
    numbers = {"four": 4.0, "least": -4.0, "most": 3.0}
    constants = [tensor(name, np.float32(value)) for name, value in numbers.items()]
    got, expected = run_both(save(make_model(nodes, constants)), SHAPE)
    np.testing.assert_array_equal(got, expected)


def test_elements_outside_are_refused(save):
    node = helper.make_node("GatherElements", ["x", "places"], ["y"], axis=2)
    places = tensor("places", np.full((1, 3, 1, 6, 6), 4))
    with pytest.raises(InputError, match="GatherElements at 4 to 4 along an axis of 4"):
        import_onnx(save(make_model([node], [places])))


@pytest.mark.parametrize("quantised", [False, True])
def test_what_lies_behind_a_tensor_that_is_overwritten_is_no_layer(save, tmp_path, quantised):
    """The scatter leaves nothing of the first layer; the second one is of constants."""
    node, shape = helper.make_node, (1, 3, *SHAPE[2:])
    values = weights(*shape)
    nodes = [
        node("Conv", ["x", "first.weight"], ["a"], pads=[1] * 6),
        node("ScatterND", ["a", "where", "values"], ["b"]),
        *(
            [
                node("QuantizeLinear", ["b", "step", "zero"], ["q"]),
                node("DequantizeLinear", ["q", "step", "zero"], ["c"]),
                node("DequantizeLinear", ["second.weight", "step", "none"], ["w"]),
                node("Conv", ["c", "w"], ["d"], pads=[1] * 6),
                # Sums are multiples of 0.0025: none lies between two of these steps.
                node("QuantizeLinear", ["d", "other", "zero"], ["dq"]),
                node("DequantizeLinear", ["dq", "other", "zero"], ["e"]),
            ]
            if quantised
            else [node("Conv", ["b", "second.weight"], ["e"], pads=[1] * 6)]
        ),
        node("Conv", ["x", "third.weight"], ["f"], pads=[1] * 6),
        node("Add", ["e", "f"], ["y"]),
    ]
    second = weights(3, 3, 3, 3, 3)
    constants = [
        tensor("first.weight", weights(3, 3, 3, 3, 3)),
        tensor("second.weight", (second * 20).astype("int8") if quantised else second),
        tensor("third.weight", weights(3, 3, 3, 3, 3)),
        tensor("where", np.zeros((1, 1), "int64")),
        tensor("values", values),
        tensor("step", np.float32(0.05)),
        tensor("other", np.float32(0.0713)),
        tensor("zero", np.uint8(128)),
        tensor("none", np.int8(0)),
    ]
    path = save(make_model(nodes, constants))
    assert list(import_onnx(path)["main"].attrs["layer_names"]) == ["third"]
    manifest = compile_onnx(path, tmp_path / "artifact")
    assert [layer["name"] for layer in manifest["layers"]] == ["third"]
    assert verify(tmp_path / "artifact", path).passed
