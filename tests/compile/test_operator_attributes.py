"""Operators with all their attributes: compiled for the processor and OpenCL, and ONNX Runtime.

The cases of a family are one model of many outputs, which is compiled once.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.opencl.artifact import load_opencl
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.errors import InputError, UntestedOperators
from tests.compile.onnx_models import make_model, run_both, tensor, weights
from tests.compile.operator_cases import FAMILIES, INPUTS, f32, graph_of, int64
from tests.opencl import device

# Those where the operators changed: axes became operands, scales of groups of channels, and more.
OPSETS = {"slices": (11, 18), "reductions": (11, 20), "normalisations": (18, 23)}


def compared(path, artifact, xs) -> None:
    """Every output of an artifact and of ONNX Runtime on the graph as it is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    expected = session.run(None, xs)
    results = artifact.run(xs)
    assert len(results) == len(expected) > 9
    for (name, result), reference in zip(results.items(), expected, strict=True):
        assert (result.shape, result.dtype) == (reference.shape, reference.dtype), name
        np.testing.assert_allclose(result, reference, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("family", "opset"), [(f, opset) for f in FAMILIES for opset in OPSETS.get(f, (20,))]
)
def test_a_family_computes_what_onnx_runtime_does(family, opset, save, tmp_path, recwarn):
    path = save(graph_of(FAMILIES[family], opset).model())
    xs = {name: 2 * weights(*shape, seed=7) for name, shape in INPUTS.items()}
    compile_onnx(path, tmp_path / "artifact")
    assert not [each for each in recwarn if each.category is UntestedOperators]
    compared(path, load(tmp_path / "artifact"), xs)


@pytest.mark.parametrize("family", ["activations", "elementwise", "einsums", "convolutions"])
def test_a_family_on_opencl(family, save, tmp_path):
    path = save(graph_of(FAMILIES[family], 20).model())
    xs = {name: 2 * weights(*shape, seed=7) for name, shape in INPUTS.items()}
    compile_onnx(path, tmp_path / "artifact", target="opencl")
    compared(path, load_opencl(tmp_path / "artifact", device=device(half=False)), xs)


def node_of(op, *operands, **attributes):
    """A model of one node on a picture, with constants."""
    names = [f"i{place}" if array is not None else "" for place, array in enumerate(operands)]
    node = helper.make_node(op, ["x", *names], ["y"], "the_node", **attributes)
    constants = [tensor(name, array) for name, array in zip(names, operands, strict=True) if name]
    return make_model([node], constants, shape=(1, 2, 4, 6), opset=18)


REFUSED = {
    "crop": (
        node_of("Resize", f32(*[0, 0, 0.2, 0.2, 1, 1, 0.8, 0.8]), None, int64(1, 2, 3, 3),
                coordinate_transformation_mode="tf_crop_and_resize"),
        r"node the_node: Resize of a crop \(tf_crop_and_resize\) is not accepted; Slice and",
    ),
    "policy": (
        node_of("Resize", None, None, int64(9, 9), axes=[2, 3],
                keep_aspect_ratio_policy="not_larger"),
        "node the_node: Resize with keep_aspect_ratio_policy 'not_larger' .*; stretch is",
    ),
    "index": (
        node_of("Gather", int64(0, -5), axis=2),
        "node the_node: Gather at -5 to 0 along an axis of 4",
    ),
    "variance": (
        node_of("BatchNormalization", f32(1, 1), f32(0, 0), f32(0, 0), f32(1, -0.1)),
        "node the_node: a variance of -0.1, which has no root; at least 0 is accepted",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_another_value_is_refused(save, case):
    model, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        import_onnx(save(model))


def test_a_result_without_axes_is_refused_on_opencl_and_computed_on_the_host(save, tmp_path):
    path = save(make_model([helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)], opset=13))
    with pytest.raises(InputError, match=r"a result without axes has no kernel .* keepdims=1"):
        compile_onnx(path, tmp_path / "a", target="opencl")
    shape = compile_onnx(path, tmp_path / "a")["inputs"][0]["shape"]
    x = weights(*shape)
    np.testing.assert_allclose(load(tmp_path / "a").run(x), x.mean(), rtol=1e-4, atol=1e-6)


def test_a_model_with_a_branch_is_refused(save):
    def branch(op):
        kind = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["x"], ["b"])], op, [], [kind])

    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["flag"], to=TensorProto.BOOL),
        helper.make_node(
            "If", ["flag"], ["y"], "branch", then_branch=branch("Relu"), else_branch=branch("Neg")
        ),
    ]
    with pytest.raises(InputError, match="node branch: If has graphs of its own, of which one"):
        import_onnx(save(make_model(nodes, opset=13)))


@pytest.mark.parametrize("size", [1, 2])
def test_a_branch_that_shapes_decide_on_is_taken(save, size):
    """As torch's older exporter writes squeeze(); of the second, by what the first has given."""
    x, y = (1, 3, size, 4, 4), (1, 3, 4, 4) if size == 1 else (1, 3, size, 4, 4)

    def number(name, value):
        return helper.make_tensor(name, TensorProto.INT64, [1], [value])

    def branch(name, op, *operands, constants=(), **attributes):
        node = helper.make_node(op, list(operands), [name], **attributes)
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [result], list(constants))

    nodes = []
    for source, result in (("x", "a"), ("a", "y")):
        axis = number(f"{result}2", 2)
        without = branch(f"{result}1", "ReduceMax", source, axis.name, constants=[axis], keepdims=0)
        nodes += [
            helper.make_node("Shape", [source], [f"{result}_shape"]),
            helper.make_node("Gather", [f"{result}_shape", "two"], [f"{result}_size"]),
            helper.make_node("Equal", [f"{result}_size", "one"], [f"{result}_is"]),
            helper.make_node(
                "If",
                [f"{result}_is"],
                [result],
                then_branch=without,
                else_branch=branch(f"{result}3", "Identity", source),
            ),
        ]
    model = make_model(nodes, [number("one", 1), number("two", 2)], shape=x)
    path = save(model)
    got, expected = run_both(path, x)
    assert got.shape == expected.shape == y
    np.testing.assert_array_equal(got, expected)


def test_an_untested_operator_is_compiled_with_one_warning_and_refused_with_strict(save, tmp_path):
    nodes = [
        helper.make_node("Sin", ["x"], ["a"], "first"),
        helper.make_node("Floor", ["a"], ["b"], "second"),
        helper.make_node("Sin", ["b"], ["y"], "third"),
    ]
    path = save(make_model(nodes))
    with pytest.warns(UntestedOperators, match=r"m\.onnx: Floor, Sin: .*`rt3d verify`") as seen:
        manifest = compile_onnx(path, tmp_path / "a")
    assert len([each for each in seen if each.category is UntestedOperators]) == 1
    assert manifest["untested_operators"] == ["Floor", "Sin"]
    x = weights(*manifest["inputs"][0]["shape"])
    np.testing.assert_allclose(
        load(tmp_path / "a").run(x), np.sin(np.floor(np.sin(x))), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(
        InputError, match=r"nodes first, third: operator Sin .*node second: .*Floor"
    ):
        compile_onnx(path, tmp_path / "b", strict=True)


def test_all_nodes_that_stop_a_model_are_named_at_once(save):
    """Of another domain, of no opset, and what the importer has no way for."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "foreign"),
        helper.make_node("Relu", ["a"], ["y"], "unknown"),
    ]
    model = make_model(nodes)
    model.graph.node[0].domain, model.graph.node[1].op_type = "com.example", "Relux"
    with pytest.raises(
        InputError, match=r"node foreign: .*'com\.example'.*; node unknown: .*opset"
    ):
        import_onnx(save(model))
    nodes = [
        helper.make_node("DFT", ["x", "", "axis"], ["a"], "one", onesided=0),
        helper.make_node("DFT", ["a", "", "axis"], ["b"], "two", onesided=0),
        helper.make_node("Det", ["b"], ["y"], "three"),
    ]
    model = make_model(nodes, [tensor("axis", np.int64(1))], shape=(1, 4, 2, 2), opset=20)
    with pytest.raises(InputError, match=r"nodes one, two: TVM cannot import DFT: .*node three: "):
        import_onnx(save(model))


def test_an_operator_that_onnx_defines_by_others_is_written_out(save, recwarn):
    """The importer has none of Celu; its body is of operators that are tested."""
    nodes = [helper.make_node("Celu", ["x"], ["y"], alpha=0.7)]
    operators = import_onnx(save(make_model(nodes)))["main"].script()
    assert "R.exp" in operators and not recwarn


def test_a_function_of_the_file_is_written_out(save):
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Sign", ["b"], ["c"])]
    own = [helper.make_opsetid("", 18), helper.make_opsetid("of.mine", 1)]
    function = helper.make_function("of.mine", "Both", ["a"], ["c"], body, own[:1])
    graph = helper.make_graph(
        [helper.make_node("Both", ["x"], ["y"], domain="of.mine")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 3, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2, 3, 4))],
    )
    model = helper.make_model(graph, opset_imports=own, functions=[function], ir_version=10)
    onnx.checker.check_model(model)
    with pytest.warns(UntestedOperators, match="Sign"):
        operators = import_onnx(save(model))["main"].script()
    assert "R.nn.relu" in operators and "R.sign" in operators
