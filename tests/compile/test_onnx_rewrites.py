"""Graphs brought to one form: layers keep their names, and what is equal is computed once."""

import pytest
from onnx import helper
from tvm import relax

from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.ir.dataflow import static_shape
from rt3d_tvm.compile.onnx_rewrites import merge_equal_nodes
from tests.compile.onnx_models import make_model, tensor, weights


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
