import random
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx, layer_names
from rt3d_tvm.compile.onnx_checks import ACCEPTED_OPS, MAX_OPSET, MIN_OPSET
from rt3d_tvm.errors import InputError

SHAPE = (1, 3, 4, 6, 6)


def tensor(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def weights(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def make_model(
    nodes, initializers=(), *, shape=SHAPE, elem_type=TensorProto.FLOAT, opset=18, outputs=("y",)
):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", elem_type, shape)],
        [helper.make_tensor_value_info(name, elem_type, None) for name in outputs],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    inferred = onnx.shape_inference.infer_shapes(model).graph.output
    for value, known in zip(model.graph.output, inferred, strict=True):
        value.CopyFrom(known)  # the checker insists on the shape of an output
    return model


def conv_model(**options):
    """Two named convolutions, a pool and a classifier: each kind of node the models have."""
    return make_model(
        [
            helper.make_node("Conv", ["x", "stem.conv1.weight"], ["a"], "n1", pads=[1] * 6),
            helper.make_node("Relu", ["a"], ["b"], "n2"),
            helper.make_node(
                "Conv", ["b", "stem.conv2.weight", "stem.conv2.bias"], ["c"], "n3", pads=[1] * 6
            ),
            helper.make_node(
                "MaxPool", ["c"], ["d"], "n4", kernel_shape=[2, 2, 2], strides=[2, 2, 2]
            ),
            helper.make_node("ReduceMean", ["d", "axes"], ["e"], "n5", keepdims=0),
            helper.make_node("Gemm", ["e", "fc.weight", "fc.bias"], ["y"], "n6", transB=1),
        ],
        [
            tensor("stem.conv1.weight", weights(5, 3, 3, 3, 3)),
            tensor("stem.conv2.weight", weights(4, 5, 3, 3, 3)),
            tensor("stem.conv2.bias", weights(4)),
            tensor("axes", np.array([2, 3, 4], np.int64)),
            tensor("fc.weight", weights(3, 4)),
            tensor("fc.bias", weights(3)),
        ],
        **options,
    )


@pytest.fixture
def save(tmp_path):
    def write(model, name="m.onnx", **options):
        onnx.save(model, tmp_path / name, **options)
        return tmp_path / name

    return write


def run_both(path, shape):
    """The output of stock TVM on the imported module, and that of ONNX Runtime."""
    x = weights(*shape, seed=1)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return run_imported(path, x), session.run(None, {"x": x})[0]


def run_imported(path, x):
    target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
    vm = relax.VirtualMachine(tvm.compile(import_onnx(path), target=target), tvm.cpu())
    return vm["main"](tvm.runtime.tensor(x)).numpy()


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


def ints(name, *values):
    return tensor(name, np.array(values, np.int64))


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
    "Div": single("Div", abs(weights(*CHANNEL)) + 0.5),
    "Dropout": single("Dropout"),
    "Flatten": single("Flatten", axis=1),
    "Gemm": lambda opset: (
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1, alpha=0.5),
        [tensor("w", weights(7, int(np.prod(SHAPE)))), tensor("b", weights(7))],
    ),
    "GlobalAveragePool": single("GlobalAveragePool"),
    "HardSigmoid": single("HardSigmoid", alpha=0.1, beta=0.4),
    "HardSwish": single("HardSwish"),
    "Identity": single("Identity"),
    "LeakyRelu": single("LeakyRelu", alpha=0.2),
    "MatMul": single("MatMul", weights(6, 5)),
    "MaxPool": single(
        "MaxPool", kernel_shape=[1, 3, 3], strides=[1, 2, 2], pads=[0, 0, 0, 0, 1, 1], ceil_mode=1
    ),
    "Mul": single("Mul", weights(*CHANNEL)),
    "Pad": single("Pad", np.array([0, 0, 1, 0, 2, 0, 0, 0, 1, 1], np.int64)),
    "ReduceMean": lambda opset: axes_node("ReduceMean", [2, 3, 4], opset, 18, keepdims=1),
    "Relu": single("Relu"),
    "Reshape": single("Reshape", np.array([0, -1, 36], np.int64)),
    "Sigmoid": single("Sigmoid"),
    "Softmax": single("Softmax", axis=1),
    "Squeeze": lambda opset: axes_node("Squeeze", [0], opset, 13),
    "Sub": single("Sub", weights(*CHANNEL)),
    "Tanh": single("Tanh"),
    "Transpose": single("Transpose", perm=[0, 2, 1, 4, 3]),
    "Unsqueeze": lambda opset: axes_node("Unsqueeze", [1], opset, 13),
}


def test_every_accepted_op_has_a_row():
    assert set(ROWS) == set(ACCEPTED_OPS)


@pytest.mark.parametrize("opset", [MIN_OPSET, 18, MAX_OPSET])
@pytest.mark.parametrize("op", ACCEPTED_OPS)
def test_an_accepted_op_computes_what_onnx_runtime_does(save, op, opset):
    opset = max(opset, 14) if op == "HardSwish" else opset  # it was added then
    parts = ROWS[op](opset)
    nodes = [part for part in parts if isinstance(part, onnx.NodeProto)]
    initializers = [] if isinstance(parts[-1], onnx.NodeProto) else parts[-1]
    got, expected = run_both(save(make_model(nodes, initializers, opset=opset)), SHAPE)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ACCEPTED_OPS)
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


def test_a_second_result_that_is_read_is_refused(save):
    nodes = [
        helper.make_node("MaxPool", ["x"], ["a", "where"], "pool", kernel_shape=[2, 2, 2]),
        helper.make_node("Squeeze", ["where"], ["y"], "reader"),
    ]
    path = save(make_model(nodes, elem_type=TensorProto.FLOAT))
    with pytest.raises(InputError):
        import_onnx(path)


def test_an_output_without_a_shape_has_the_one_that_follows(save):
    model = make_model(one("MaxPool", kernel_shape=[2, 3, 3]))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    got, expected = run_both(save(model), SHAPE)
    assert got.shape == (1, 3, 3, 4, 4)
    np.testing.assert_array_equal(got, expected)


def test_a_part_of_a_tensor_is_refused(save):
    model = one_conv((4, 3, 1, 1, 1))
    model.graph.initializer[0].segment.end = 3
    with pytest.raises(InputError, match="weights of 'w' are a segment of a tensor; whole"):
        import_onnx(save(model))


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


REFUSED = {
    "opset too old": (lambda: make_model(one("Relu"), opset=9), "opset 9 .* 11 to 23"),
    "opset too new": (lambda: make_model(one("Relu"), opset=28), "opset 28 .* 11 to 23"),
    "unknown operator": (
        lambda: make_model(one("Celu")),
        "node the_node: operator Celu is not accepted; accepted are Add, .*Conv",
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
        r"input 'x': dimension 0 is dynamic \('batch'\); export with fixed shapes",
    ),
    "missing dimension": (
        lambda: make_model(one("Relu"), shape=(1, 3, None, 6, 6)),
        "input 'x': dimension 2 is missing; export with fixed shapes",
    ),
    "no shape": (lambda: make_model(one("Relu"), shape=None), "input 'x': no shape"),
    "zero": (lambda: make_model(one("Relu"), shape=(1, 3, 4, 0, 6)), "dimension 3 is 0; at least"),
    "wrong rank": (
        lambda: make_model(one("Relu"), shape=(1, 3, 6)),
        r"input 'x': 3 dimensions; accepted are 4 \(pictures, .* or 5 \(clips, ",
    ),
    "float16": (
        lambda: make_model(one("Relu"), elem_type=TensorProto.FLOAT16),
        "input 'x': float16; float32 is accepted",
    ),
    "two outputs": (
        lambda: make_model(
            [*one("Relu"), helper.make_node("Tanh", ["x"], ["z"])], outputs=("y", "z")
        ),
        r"2 outputs \(y, z\); exactly one",
    ),
    "too large": (
        lambda: make_model(one("Relu"), shape=(1, 3, 2**31, 6, 6)),
        "tensor 'x' has 231928233984 elements; up to 2147483647",
    ),
    "invalid graph": (
        lambda: make_model([*one("Relu"), helper.make_node("Add", ["x", "nowhere"], ["z"])]),
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


def test_two_inputs_are_refused(save):
    model = make_model([helper.make_node("Add", ["x", "z"], ["y"])])
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, SHAPE))
    with pytest.raises(InputError, match=r"2 inputs \(x, z\); exactly one"):
        import_onnx(save(model))


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
