"""NaN and infinities in a model: which are found, and which are nothing unusual."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rt3d_tvm.errors import InputError
from rt3d_tvm.numerics.non_finite import NonFinite, in_graph, in_tensors, refuse

node = helper.make_node
NAN, INF = float("nan"), float("inf")


def graph(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """A graph from x to y with these constants."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
    )


def floats(*values: float, dtype: str = "float32") -> np.ndarray:
    return np.array(values, dtype)


# What is found, as its name, NaN and infinities.
FOUND = {
    "a weight": (graph(node("MatMul", ["x", "w"], ["y"]), w=floats(NAN, 1, INF, -INF)), "w 1 2"),
    "a bias": (graph(node("Conv", ["x", "w", "b"], ["y"]), w=floats(1), b=floats(INF)), "b 0 1"),
    "a variance": (
        graph(
            node("BatchNormalization", ["x", *"smbv"], ["y"]),
            **dict.fromkeys("smb", floats(1)),
            v=floats(1, NAN),
        ),
        "v 1 0",
    ),
    "an addend": (graph(node("Add", ["x", "a"], ["y"]), a=floats(1, -INF)), "a 0 1"),
    "float16": (graph(node("Mul", ["x", "a"], ["y"]), a=floats(NAN, dtype="float16")), "a 1 0"),
    "what is folded": (
        graph(
            node("Transpose", ["w"], ["t"]),
            node("Mul", ["t", "two"], ["u"]),
            node("MatMul", ["x", "u"], ["y"]),
            w=floats(1, NAN),
            two=floats(2),
        ),
        "w 1 0",
    ),
    "a Constant": (
        graph(
            node("Constant", [], ["w"], value=numpy_helper.from_array(floats(INF))),
            node("MatMul", ["x", "w"], ["y"]),
        ),
        "w 0 1",
    ),
    "a Constant of a number": (
        graph(node("Constant", [], ["w"], value_float=NAN), node("Mul", ["x", "w"], ["y"])),
        "w 1 0",
    ),
    "an attribute": (graph(node("LeakyRelu", ["x"], ["y"], alpha=NAN)), "alpha of y 1 0"),
    "a NaN as bound": (graph(node("Clip", ["x", "", "high"], ["y"]), high=floats(NAN)), "high 1 0"),
    "a NaN in a mask": (
        graph(node("Add", ["x", "m"], ["z"]), node("Softmax", ["z"], ["y"]), m=floats(NAN, -INF)),
        "m 1 1",
    ),
}

USUAL = {
    "finite": graph(node("MatMul", ["x", "w"], ["y"]), w=floats(1, -0.0, 3e38, 1e-45)),
    "bounds": graph(node("Clip", ["x", "low", "high"], ["y"]), low=floats(-INF), high=floats(INF)),
    "a filler": graph(
        node("Pad", ["x", "pads", "value"], ["y"]), pads=np.array([0, 1]), value=floats(-INF)
    ),
    "a choice": graph(node("Where", ["c", "x", "k"], ["y"]), c=np.array([True]), k=floats(-INF)),
    "the least": graph(node("Max", ["x", "k"], ["y"]), k=floats(-INF)),
    "a mask": graph(
        node("Add", ["x", "mask"], ["z"]), node("Softmax", ["z"], ["y"]), mask=floats(0, -INF)
    ),
    "what nothing reads": graph(node("Relu", ["x"], ["y"]), w=floats(NAN)),
    "whole numbers": graph(node("Reshape", ["x", "s"], ["y"]), s=np.array([-1, 4])),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_tensor_is_named_and_its_values_are_counted(name):
    model, expected = FOUND[name]
    assert [f"{each.name} {each.nan} {each.infinite}" for each in in_graph(model)] == [expected]


@pytest.mark.parametrize("name", USUAL)
def test_an_infinity_may_be_a_bound_a_filler_or_a_mask(name):
    assert in_graph(USUAL[name]) == []


def test_a_refusal_names_the_first_and_counts_the_others():
    tensors = [(f"layer{i}.weight", np.full((2, 3), [NAN, 1, INF])) for i in range(5)]
    found = in_tensors(tensors)
    assert str(found[0]) == "layer0.weight (2 NaN and 2 infinite of 6)"
    with pytest.raises(InputError, match=r"^m\.onnx: .*layer2\.weight .* and 2 more; .*finite\)$"):
        refuse(found, where="m.onnx", command="compile")


def test_nothing_is_refused_where_all_is_finite():
    refuse([], where="m.onnx")
    assert in_tensors([("w", np.arange(3)), ("v", np.zeros((2, 0)))]) == []
    assert str(NonFinite(name="w", nan=0, infinite=1, size=1)) == "w (1 infinite of 1)"
