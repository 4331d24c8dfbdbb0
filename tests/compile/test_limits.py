"""Small files that ask for gigabytes are refused before anything is read or computed."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rt3d_tvm.compile import limits
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.errors import InputError

SHAPE = (1, 3, 4, 8, 8)


def write(path, nodes, tensors=(), shape=SHAPE):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        list(tensors),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def added_mean(name: str) -> list[onnx.NodeProto]:
    """What uses a constant up: its mean, added to the input."""
    return [
        helper.make_node("ReduceMean", [name], ["mean"], keepdims=0),
        helper.make_node("Add", ["x", "mean"], ["y"]),
    ]


def test_a_padded_constant_of_gigabytes_is_refused(tmp_path):
    tensors = [
        numpy_helper.from_array(np.ones(2, "float32"), "a"),
        numpy_helper.from_array(np.array([0, 2**29]), "p"),
    ]
    nodes = [helper.make_node("Pad", ["a", "p"], ["k"]), *added_mean("k")]
    with pytest.raises(InputError, match=r"'k' \(Pad\): constants .* 2147483656 bytes with it"):
        import_onnx(write(tmp_path / "m.onnx", nodes, tensors))


def test_constants_that_double_are_refused_by_their_sum(tmp_path):
    nodes = [helper.make_node("Concat", [f"k{i}"] * 2, [f"k{i + 1}"], axis=0) for i in range(28)]
    tensors = [numpy_helper.from_array(np.ones(2, "float32"), "k0")]
    # 16 + 32 + ... + 2^30 bytes: the sum is over the limit one step before the largest is.
    with pytest.raises(InputError, match=r"'k27' \(Concat\): constants .* 2147483632 bytes"):
        import_onnx(write(tmp_path / "m.onnx", nodes + added_mean("k28"), tensors))


@pytest.mark.parametrize("stated", [True, False], ids=["length", "no length"])
def test_external_weights_count_before_they_are_read(tmp_path, stated, monkeypatch):
    monkeypatch.setattr(limits, "MAX_WEIGHT_BYTES", 1 << 20)
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(3 << 20)
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL
    )
    for key, value in {"location": "w.bin", **({"length": 3 << 20} if stated else {})}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    with pytest.raises(InputError, match="its weights take 3145728 bytes; up to 1048576"):
        import_onnx(write(tmp_path / "m.onnx", added_mean("w"), [tensor]))


def test_the_sum_of_all_results_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_RESULT_BYTES", 1 << 12)
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    with pytest.raises(InputError, match="its results take 6144 bytes in all; up to 4096"):
        import_onnx(write(tmp_path / "m.onnx", nodes))


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_a_pool_window_larger_than_the_padded_input_is_refused(tmp_path, kind):
    pool = helper.make_node(
        kind, ["x"], ["y"], kernel_shape=[6, 2, 2], strides=[2, 2, 2], pads=[1, 0, 0, 0, 0, 0]
    )
    with pytest.raises(InputError, match=r"its window of 6 is larger than .* axis 2, 5"):
        import_onnx(write(tmp_path / "m.onnx", [pool], shape=(1, 3, 1, 4, 4)))
