"""Every operator that is tested computes what ONNX Runtime does, at every opset."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.onnx_checks import MAX_OPSET, MIN_OPSET
from rt3d_tvm.compile.onnx_operators import TESTED_OPS
from rt3d_tvm.errors import InputError
from tests.compile.onnx_models import (
    SHAPE,
    ints,
    make_model,
    run_both,
    run_imported,
    tensor,
    weights,
)
from tests.compile.operator_cases import FAMILIES, graph_of


def axes_node(op, axes, opset, since, **attributes):
    """An op whose axes were an attribute before an opset and are an input from it on."""
    if opset < since:
        return helper.make_node(op, ["x"], ["y"], axes=axes, **attributes), []
    return helper.make_node(op, ["x", "axes"], ["y"], **attributes), [ints("axes", *axes)]


def single(op, *arrays, **attributes):
    """A row of the table below: x, then constant inputs, then attributes."""

    def build(opset):
        names = [f"i{n}" for n in range(len(arrays))]
        node = helper.make_node(op, ["x", *names], ["y"], **attributes)
        return node, [tensor(name, array) for name, array in zip(names, arrays, strict=True)]

    return build


CHANNEL = (1, 3, 1, 1, 1)


def pair_of_conversions():
    constants = [tensor("scale", np.float32(0.013)), tensor("zero", np.uint8(97))]
    return (
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        constants,
    )


def recurrent(op, gates):
    """A layer of 5 on four steps of a batch of three; test_onnx_recurrent.py has its attributes."""
    nodes = (
        helper.make_node("Reshape", ["x", "to"], ["steps"]),
        helper.make_node(op, ["steps", "w", "r"], ["y"], hidden_size=5),
    )
    rows = gates * 5
    constants = [tensor("w", weights(1, rows, 36) / 6), tensor("r", weights(1, rows, 5) / 2)]
    return lambda opset: (*nodes, [ints("to", 4, 3, 36), *constants])


ROWS = {
    "Add": single("Add", weights(*CHANNEL)),
    "AveragePool": single(
        "AveragePool",
        kernel_shape=[2, 3, 3],
        strides=[2, 2, 2],
        pads=[0, 1, 1, 0, 1, 1],
        count_include_pad=1,
    ),
    "BatchNormalization": single(
        "BatchNormalization", weights(3), weights(3), weights(3), abs(weights(3)) + 0.5
    ),
    "Clip": single("Clip", np.float32(-0.5), np.float32(0.5)),
    "Concat": lambda opset: (helper.make_node("Concat", ["x", "x"], ["y"], axis=1), []),
    "Constant": lambda opset: (
        helper.make_node("Constant", [], ["k"], value=tensor("k", weights(*CHANNEL))),
        helper.make_node("Mul", ["x", "k"], ["y"]),
    ),
    "Conv": single(
        "Conv",
        weights(6, 1, 3, 1, 2),
        weights(6),
        group=3,
        strides=[1, 2, 1],
        dilations=[1, 1, 2],
        pads=[1, 0, 1, 0, 0, 0],
    ),
    "DequantizeLinear": lambda opset: pair_of_conversions(),
    "Div": single("Div", abs(weights(*CHANNEL)) + 0.5),
    "Dropout": single("Dropout"),
    "Flatten": single("Flatten", axis=1),
    "Gemm": lambda opset: (
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1, alpha=0.5),
        [tensor("w", weights(7, int(np.prod(SHAPE)))), tensor("b", weights(7))],
    ),
    "GRU": recurrent("GRU", 3),
    "GlobalAveragePool": single("GlobalAveragePool"),
    "HardSigmoid": single("HardSigmoid", alpha=0.1, beta=0.4),
    "HardSwish": single("HardSwish"),
    "Identity": single("Identity"),
    "LSTM": recurrent("LSTM", 4),
    "LeakyRelu": single("LeakyRelu", alpha=0.2),
    "MatMul": single("MatMul", weights(6, 5)),
    "MaxPool": single(
        "MaxPool", kernel_shape=[1, 3, 3], strides=[1, 2, 2], pads=[0, 0, 0, 0, 1, 1], ceil_mode=1
    ),
    "Mul": single("Mul", weights(*CHANNEL)),
    "Pad": single("Pad", np.array([0, 0, 1, 0, 2, 0, 0, 0, 1, 1], np.int64)),
    "QuantizeLinear": lambda opset: pair_of_conversions(),
    "RNN": recurrent("RNN", 1),
    "ReduceL1": lambda opset: axes_node("ReduceL1", [1, -1], opset, 18, keepdims=0),
    "ReduceMean": lambda opset: axes_node("ReduceMean", [2, 3, 4], opset, 18, keepdims=1),
    "Relu": single("Relu"),
    "Reshape": single("Reshape", np.array([0, -1, 36], np.int64)),
    "ScatterElements": single(
        "ScatterElements", np.array([[[[[-1, 2], [0, 3]]]]]), weights(1, 1, 1, 2, 2), axis=2
    ),
    "Sigmoid": single("Sigmoid"),
    "Softmax": single("Softmax", axis=1),
    "Squeeze": lambda opset: axes_node("Squeeze", [0], opset, 13),
    "Sub": single("Sub", weights(*CHANNEL)),
    "Tanh": single("Tanh"),
    "Transpose": single("Transpose", perm=[0, 2, 1, 4, 3]),
    "Unsqueeze": lambda opset: axes_node("Unsqueeze", [1], opset, 13),
}


def test_every_tested_op_has_a_row_or_cases():
    """Those that have more attributes than a row shows are in operator_cases.py."""
    in_cases = {node.op_type for of in FAMILIES.values() for node in graph_of(of, 20).nodes}
    assert set(ROWS) | in_cases == set(TESTED_OPS)


@pytest.mark.parametrize("opset", [MIN_OPSET, 18, MAX_OPSET])
@pytest.mark.parametrize("op", ROWS)
def test_an_accepted_op_computes_what_onnx_runtime_does(save, op, opset):
    opset = max(opset, 14) if op == "HardSwish" else opset  # it was added then
    parts = ROWS[op](opset)
    nodes = [part for part in parts if isinstance(part, onnx.NodeProto)]
    initializers = [] if isinstance(parts[-1], onnx.NodeProto) else parts[-1]
    got, expected = run_both(save(make_model(nodes, initializers, opset=opset)), SHAPE)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ROWS)
def test_an_accepted_op_goes_through_the_whole_compiler(save, op, tmp_path):
    """By this project's passes and schedules as well, not by stock TVM's alone."""
    parts = ROWS[op](18)
    nodes = [part for part in parts if isinstance(part, onnx.NodeProto)]
    initializers = [] if isinstance(parts[-1], onnx.NodeProto) else parts[-1]
    path = save(make_model(nodes, initializers, opset=18))
    compile_onnx(path, tmp_path / "artifact")
    assert verify(tmp_path / "artifact", path, inputs=1).max_rel_error <= 1e-4


@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    ("window", "strides", "dilations"),
    [
        ((2, 3, 4), (1, 1, 1), (1, 1, 1)),
        ((2, 2, 2), (2, 2, 2), (1, 1, 1)),
        ((1, 2, 5), (3, 4, 5), (1, 1, 1)),  # steps beyond the window: nothing is padded
        ((3, 1, 2), None, None),
    ],
)
def test_auto_pad_pads_as_onnx_runtime_does(save, op, auto_pad, window, strides, dilations):
    given = {"strides": strides, "dilations": dilations if op != "AveragePool" else None}
    given = {name: list(value) for name, value in given.items() if value}
    node = helper.make_node(
        op, ["x", *["w"] * (op == "Conv")], ["y"], auto_pad=auto_pad, kernel_shape=window, **given
    )
    constants = [tensor("w", weights(4, 3, *window))] if op == "Conv" else []
    got, expected = run_both(save(make_model([node], constants)), SHAPE)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_same_counts_the_dilation_as_torch_does(save):
    """ONNX Runtime takes SAME without dilation only; torch's is SAME_UPPER."""
    w, dilations = weights(4, 3, 2, 3, 2), [2, 1, 3]
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", dilations=dilations)
    path = save(make_model([node], [tensor("w", w)]))
    x = weights(*SHAPE, seed=1)
    expected = torch.nn.functional.conv3d(
        torch.from_numpy(x), torch.from_numpy(w), padding="same", dilation=dilations
    )
    np.testing.assert_allclose(run_imported(path, x), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_the_window_of_a_conv_may_come_from_its_weight_where_auto_pad_pads(save):
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_LOWER", strides=[2, 1, 1])
    got, expected = run_both(save(make_model([node], [tensor("w", weights(4, 3, 2, 4, 3))])), SHAPE)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", ["MaxPool", "Dropout"])
def test_a_second_result_that_nothing_reads_is_no_obstacle(save, op):
    window = {"kernel_shape": [2, 2, 2]} if op == "MaxPool" else {}
    nodes = [
        helper.make_node(op, ["x"], ["a", "unused"], **window),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    got, expected = run_both(save(make_model(nodes)), SHAPE)
    np.testing.assert_array_equal(got, expected)


def test_a_second_result_of_a_pool_that_is_read_is_refused(save):
    nodes = [
        helper.make_node("MaxPool", ["x"], ["a", "where"], "pool", kernel_shape=[2, 2, 2]),
        helper.make_node("Squeeze", ["where"], ["y"], "reader"),
    ]
    path = save(make_model(nodes, elem_type=TensorProto.FLOAT))
    with pytest.raises(InputError):
        import_onnx(path)


@pytest.mark.parametrize("left", ["x", "constant"])
def test_a_product_whose_right_matrix_is_computed_goes_through_the_compiler(save, left, tmp_path):
    """It is no layer, and stands between two that are."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Flatten", ["a"], ["f"]),
        helper.make_node("Transpose", ["f"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["f", "t"] if left == "x" else ["k", "f"], ["p"]),
        helper.make_node("Gemm", ["p", "v"], ["y"]),
    ]
    size = 2 * int(np.prod(SHAPE[2:]))
    constants = [tensor("w", weights(2, 3, 1, 1, 1) / 10), tensor("k", weights(4, 1))]
    constants.append(tensor("v", weights(1 if left == "x" else size, 5) / 10))
    path = save(make_model(nodes, constants))
    compile_onnx(path, tmp_path / "artifact")
    assert verify(tmp_path / "artifact", path, inputs=1).max_rel_error <= 1e-4
