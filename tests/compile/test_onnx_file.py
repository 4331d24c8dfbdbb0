"""Weights of ONNX files: as many bytes or numbers as their shapes need, wherever they stand."""

import pytest
from onnx import TensorProto, helper

from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.errors import InputError
from tests.compile.onnx_models import make_model, tensor, weights


def one_conv(shape):
    node = helper.make_node("Conv", ["x", "w"], ["y"], "the_node")
    return make_model([node], [tensor("w", weights(*shape))])


@pytest.mark.parametrize("size", [47, 49, 52, 0])
def test_other_bytes_than_a_shape_needs_are_refused(save, size):
    model = one_conv((4, 3, 1, 1, 1))
    model.graph.initializer[0].raw_data = b"\0" * size
    with pytest.raises(InputError, match=rf"weights of 'w' have {size} bytes; 48 are accepted for"):
        import_onnx(save(model))


@pytest.mark.parametrize(
    ("kind", "field", "held", "needed"),
    [
        ("FLOAT", "float_data", 11, 12),
        ("INT64", "int64_data", 0, 12),
        ("FLOAT16", "int32_data", 24, 12),
        ("DOUBLE", "double_data", 13, 12),
        ("COMPLEX64", "float_data", 12, 24),
        ("INT4", "int32_data", 12, 6),
        ("UINT2", "int32_data", 2, 3),
    ],
)
def test_other_numbers_than_a_shape_needs_are_refused(save, kind, field, held, needed):
    model = one_conv((4, 3, 1, 1, 1))
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_type = TensorProto.DataType.Value(kind)
    getattr(weight, field)[:] = [1] * held
    with pytest.raises(InputError, match=rf"'w' have {held} numbers; {needed} are accepted for"):
        import_onnx(save(model))


@pytest.mark.parametrize("inside", ["graph", "function"])
def test_constants_inside_of_others_are_counted_too(save, inside):
    short = helper.make_tensor("short", TensorProto.FLOAT, (2,), [1, 2])
    short.float_data.pop()
    node = helper.make_node("Constant", [], ["c"], value=short)
    model = make_model([helper.make_node("Relu", ["x"], ["y"])])
    if inside == "graph":
        branch = helper.make_graph([node], "branch", [], [])
        model.graph.node[0].attribute.append(helper.make_attribute("then_branch", branch))
    else:
        opsets = [helper.make_opsetid("", 18)]
        model.functions.append(helper.make_function("own", "F", [], ["c"], [node], opsets))
    with pytest.raises(InputError, match="'short' have 1 numbers; 2 are accepted for"):
        import_onnx(save(model))


def test_a_part_of_a_tensor_is_refused(save):
    model = one_conv((4, 3, 1, 1, 1))
    model.graph.initializer[0].segment.end = 3
    with pytest.raises(InputError, match="weights of 'w' are a segment of a tensor; whole"):
        import_onnx(save(model))
