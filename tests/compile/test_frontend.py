"""ONNX files as they are imported: the names of layers, what is refused, damage."""

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import relax

from rt3d_tvm.compile.frontend import import_onnx, layer_names
from rt3d_tvm.errors import InputError
from tests.compile.onnx_models import SHAPE, conv_model, ints, make_model, run_both, tensor, weights


def test_convs_arrive_as_conv3d_with_their_names(save):
    module = import_onnx(save(conv_model()))
    ops = [
        binding.value.op.name
        for block in module["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    ]
    assert ops[:5] == [
        "relax.nn.conv3d",
        "relax.nn.relu",
        "relax.nn.conv3d",
        "relax.reshape",
        "relax.add",
    ]
    assert list(module["main"].attrs["layer_names"]) == ["stem.conv1", "stem.conv2", "fc"]


def test_a_product_of_two_activations_is_no_layer(save):
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], axis=2),
        helper.make_node("Transpose", ["f"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["f", "t"], ["p"], "product"),
        helper.make_node("MatMul", ["p", "fc.weight"], ["y"], "fully_connected"),
    ]
    module = import_onnx(save(make_model(nodes, [tensor("fc.weight", weights(3, 2))])))
    assert list(module["main"].attrs["layer_names"]) == ["fc"]


def test_what_depends_on_constants_alone_is_folded_and_no_layer(save):
    nodes = [
        helper.make_node("Identity", ["w"], ["fc.weight"]),
        helper.make_node("Flatten", ["x"], ["f"], axis=4),
        helper.make_node("MatMul", ["f", "fc.weight"], ["p"], "fully_connected"),
        helper.make_node("MatMul", ["w", "fc.weight"], ["c"], "of_constants"),
        helper.make_node("MatMul", ["p", "c"], ["y"], "again"),
    ]
    path = save(make_model(nodes, [tensor("w", weights(6, 6))]))
    assert layer_names(path) == ["fc", "again"]
    folded = relax.transform.FoldConstant()(import_onnx(path))
    assert str(folded).count("R.matmul") == 2


def test_names_fall_back_to_the_node_and_stay_unique(save):
    shared = tensor("a.weight", weights(3, 3, 1, 1, 1))
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["1"], "one"),
        helper.make_node("Conv", ["1", "a.weight"], ["2"], "two"),
        helper.make_node("Conv", ["2", "onnx::Conv_7"], ["3"], "three"),
        helper.make_node("Conv", ["3", "onnx::Conv_7"], ["y"]),
        helper.make_node("Conv", ["3", "a.weight"], ["dead"], "dead"),
    ]
    path = save(make_model(nodes, [shared, tensor("onnx::Conv_7", weights(3, 3, 1, 1, 1))]))
    assert layer_names(path) == ["a", "a#2", "three", "y"]
    assert len(import_onnx(path)["main"].attrs["layer_names"]) == 4


def test_a_conv_with_a_computed_weight_is_no_error(save):
    nodes = [
        helper.make_node("Transpose", ["x"], ["w"], perm=[1, 0, 2, 3, 4]),
        helper.make_node("ReduceMean", ["x", "axis"], ["m"]),
        helper.make_node("Conv", ["m", "w"], ["y"], "conv"),
    ]
    path = save(make_model(nodes, [tensor("axis", np.array([1], np.int64))]))
    assert list(import_onnx(path)["main"].attrs["layer_names"]) == ["conv"]


def test_the_whole_model_computes_what_onnx_runtime_does(save):
    got, expected = run_both(save(conv_model()), SHAPE)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_an_output_without_a_shape_has_the_one_that_follows(save):
    model = make_model(one("MaxPool", kernel_shape=[2, 3, 3]))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    got, expected = run_both(save(model), SHAPE)
    assert got.shape == (1, 3, 3, 4, 4)
    np.testing.assert_array_equal(got, expected)


def one(op, **attributes):
    return [helper.make_node(op, ["x"], ["y"], "the_node", **attributes)]


def one_conv(shape, bias=None, **attributes):
    inputs, initializers = ["x", "w"], [tensor("w", weights(*shape))]
    if bias:
        inputs.append("b")
        initializers.append(tensor("b", weights(bias)))
    return make_model(
        [helper.make_node("Conv", inputs, ["y"], "the_node", **attributes)], initializers
    )


def in_domain(model, domain):
    model.graph.node[0].domain = domain
    return model


def named(model, op):
    model.graph.node[0].op_type = op
    return model


def reading(model, name):
    model.graph.node[0].input[0] = name
    return model


REFUSED = {
    "opset too old": (lambda: make_model(one("Relu"), opset=9), "opset 9 .* 11 to 23"),
    "opset too new": (lambda: make_model(one("Relu"), opset=28), "opset 28 .* 11 to 23"),
    "unknown operator": (
        lambda: named(make_model(one("Relu")), "Relux"),
        "node the_node: operator Relux is none of opset 18",
    ),
    "unknown domain": (
        lambda: in_domain(make_model(one("Relu")), "com.example"),
        "node the_node: .*domain 'com.example'",
    ),
    "auto_pad": (
        lambda: make_model(one("MaxPool", kernel_shape=[2, 2, 2], auto_pad="MIDDLE")),
        "node the_node: auto_pad 'MIDDLE' is none; NOTSET, VALID, SAME_UPPER and SAME_LOWER are",
    ),
    "training": (
        lambda: make_model(
            [helper.make_node("Dropout", ["x", "r", "t"], ["y"], "the_node")],
            [tensor("r", np.float32(0.5)), tensor("t", np.array(True))],
        ),
        "node the_node: Dropout with .*training mode .*eval mode",
    ),
    "wrap": (
        lambda: make_model(
            [helper.make_node("Pad", ["x", "p"], ["y"], "the_node", mode="wrap")],
            [ints("p", *[1] * 10)],
        ),
        "node the_node: Pad mode wrap .*constant, edge, reflect",
    ),
    "dynamic": (
        lambda: make_model(one("Relu"), shape=("batch", 3, 4, 6, 6)),
        r"input 'x': dimension 0 is dynamic \('batch'\); compile with batch=N .* fixed shapes",
    ),
    "dynamic size": (
        lambda: make_model(one("Relu"), shape=(1, 3, "frames", 6, 6)),
        r"input 'x': dimension 2 is dynamic \('frames'\); export with fixed shapes",
    ),
    "missing dimension": (
        lambda: make_model(one("Relu"), shape=(1, 3, None, 6, 6)),
        "input 'x': dimension 2 is missing; export with fixed shapes",
    ),
    "no shape": (lambda: make_model(one("Relu"), shape=None), "input 'x': no shape"),
    "zero": (lambda: make_model(one("Relu"), shape=(1, 3, 4, 0, 6)), "dimension 3 is 0; at least"),
    "a number": (
        lambda: make_model(one("Relu"), shape=()),
        "input 'x': a number without dimensions; at least one",
    ),
    "float16": (
        lambda: make_model(one("Relu"), elem_type=TensorProto.FLOAT16),
        "input 'x': float16; float32 is accepted",
    ),
    "too large": (
        lambda: make_model(one("Relu"), shape=(1, 3, 2**31, 6, 6)),
        "tensor 'x' has 231928233984 elements; up to 2147483647",
    ),
    "invalid graph": (
        lambda: reading(make_model(one("Relu")), "nowhere"),
        "not a valid ONNX model: .*nowhere",
    ),
    "channels": (
        lambda: one_conv((4, 5, 1, 1, 1)),
        r"node the_node: .*\[4, 5, 1, 1, 1\] and 1 groups takes 5 channels; its input has 3",
    ),
    "groups": (
        lambda: one_conv((4, 1, 1, 1, 1), group=3),
        "node the_node: .* 3 groups; a divisor of 4",
    ),
    "no groups": (lambda: one_conv((4, 3, 1, 1, 1), group=0), "node the_node: .* 0 groups"),
    "kernel": (
        lambda: one_conv((4, 3, 1, 1, 1), kernel_shape=[2, 2, 2]),
        r"node the_node: .*kernel_shape \[2, 2, 2\]; \[1, 1, 1\]",
    ),
    "bias": (
        lambda: one_conv((4, 3, 1, 1, 1), bias=5),
        r"node the_node: .*bias of shape \[5\]; \[4\]",
    ),
    "nothing left": (
        lambda: one_conv((4, 3, 9, 1, 1)),
        r"tensor 'y' has the shape \[1, 4, -4, 6, 6\]; fixed sizes of at least 1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(save, case, capsys):
    build, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        import_onnx(save(build()))
    assert capsys.readouterr().out == ""


def test_sparse_initializers_are_refused(save):
    model = conv_model()
    dense = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("v_i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(dense, indices, [4]))
    with pytest.raises(InputError, match="sparse_initializer"):
        import_onnx(save(model))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not an ONNX model"), (b"PK\x03\x04 zip", "not an ONNX"), (b"hello\n" * 99, "not an ")],
)
def test_what_is_not_onnx_is_refused(tmp_path, content, message):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        import_onnx(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        import_onnx(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="not a file"):
        import_onnx(tmp_path)


@pytest.fixture
def external(save, tmp_path):
    """A model with its weights beside it, and a way to point them elsewhere."""
    path = save(conv_model(), save_as_external_data=True, location="m.data", size_threshold=0)

    def point_at(location):
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = location
        path.write_bytes(model.SerializeToString())

    return path, tmp_path / "m.data", point_at


def test_external_data_beside_the_model_is_read(external):
    path, _, _ = external
    assert list(import_onnx(path)["main"].attrs["layer_names"]) == [
        "stem.conv1",
        "stem.conv2",
        "fc",
    ]


def test_external_data_missing_or_truncated_is_refused(external):
    path, data, _ = external
    data.write_bytes(data.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"'m\.data' is truncated"):
        import_onnx(path)
    data.unlink()
    with pytest.raises(InputError, match=r"'stem\.conv1\.weight': .*'m\.data' is missing"):
        import_onnx(path)


@pytest.mark.parametrize("location", ["../m.data", "/etc/hosts", "", "a/../../m.data", "a\0b"])
def test_external_data_outside_the_folder_is_refused(external, location):
    path, data, point_at = external
    (data.parent.parent / "m.data").write_bytes(data.read_bytes())
    point_at(location)
    with pytest.raises(InputError, match="outside the model's folder"):
        import_onnx(path)


def test_external_data_through_a_link_out_of_the_folder_is_refused(external, tmp_path_factory):
    path, data, _ = external
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "m.data"
    data.rename(elsewhere)
    data.symlink_to(elsewhere)
    with pytest.raises(InputError, match="outside the model's folder"):
        import_onnx(path)


def accepted_or_refused(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        module = import_onnx(path)
    except InputError as error:
        assert str(error)
        return False
    assert isinstance(module, tvm.IRModule)
    return True


def test_truncated_anywhere_is_refused(tmp_path):
    content = conv_model().SerializeToString()
    rng = random.Random(0)
    for end in [*range(40), *(rng.randrange(len(content)) for _ in range(200))]:
        # What follows the graph in the file is the opset, so no part of it makes a model.
        assert not accepted_or_refused(tmp_path / "m.onnx", content[:end])


def test_damaged_bytes_never_raise_anything_else(tmp_path):
    content = conv_model().SerializeToString()
    # Most bytes are weights, which no check can see: damage the structure around them.
    structure = [i for i in range(len(content)) if content[max(0, i - 8) : i + 8].isascii()]
    rng = random.Random(1)
    outcomes = set()
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 4])):
            damaged[rng.choice(structure)] = rng.choice([0, 127, 128, 255, rng.randrange(256)])
        outcomes.add(accepted_or_refused(tmp_path / "m.onnx", bytes(damaged)))
    assert outcomes == {True, False}
    assert accepted_or_refused(tmp_path / "m.onnx", content)  # a failed import leaves no state
