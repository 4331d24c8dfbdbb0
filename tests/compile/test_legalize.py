"""Loop nests of TopK and running sums, against ONNX Runtime and PyTorch."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.opencl.artifact import load_opencl
from rt3d_tvm.artifact.verify import reference_session
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.legalize import MOST
from rt3d_tvm.errors import InputError
from tests.opencl import device


def one_operator(folder, op: str, shape, number: int, outputs: dict, **attributes):
    """The file of one operator whose second input is a number."""
    kind = np.array([number]) if op == "TopK" else np.array(number)
    values = [helper.make_tensor_value_info(name, *outputs[name]) for name in outputs]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "number"], list(outputs), **attributes)],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        values,
        [numpy_helper.from_array(kind, "number")],
    )
    opset = helper.make_opsetid("", 17)
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


def run(path, x, target):
    if target == "opencl":
        device(half=False)
    compile_onnx(path, path.parent / "artifact", target=target, precision="fp32")
    return (load_opencl if target == "opencl" else load)(path.parent / "artifact").run(x)


everywhere = pytest.mark.parametrize("target", ["host", "opencl"])


@everywhere
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize(("axis", "k"), [(1, 3), (2, 19), (-1, 1), (0, 2)])
def test_topk_is_onnx_runtimes_and_equal_values_stay_in_order(tmp_path, axis, k, largest, target):
    x = np.random.default_rng(0).integers(-4, 4, (3, 6, 19)).astype("float32")
    shape = list(x.shape)
    shape[axis] = k
    outputs = {"v": (TensorProto.FLOAT, shape), "i": (TensorProto.INT64, shape)}
    path = one_operator(tmp_path, "TopK", x.shape, k, outputs, axis=axis, largest=largest)
    results = run(path, x, target)
    for name, expected in zip("vi", reference_session(path).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(results[name], expected)


@everywhere
def test_topk_places_not_a_number_as_pytorch_does(tmp_path, target):
    x = np.array([[1, np.nan, -np.inf, 3, np.nan, np.inf, 3]], "float32")
    outputs = {"v": (TensorProto.FLOAT, x.shape), "i": (TensorProto.INT64, x.shape)}
    path = one_operator(tmp_path, "TopK", x.shape, 7, outputs, axis=1)
    results = run(path, x, target)
    values, places = torch.from_numpy(x).sort(dim=1, descending=True, stable=True)
    np.testing.assert_array_equal(results["v"], values.numpy())
    np.testing.assert_array_equal(results["i"], places.numpy())


@everywhere
@pytest.mark.filterwarnings("ignore::rt3d_tvm.errors.UntestedOperators")
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_running_sums_are_exact_of_whole_numbers(tmp_path, axis, exclusive, target):
    x = np.random.default_rng(1).integers(-99, 99, (2, 5, 33)).astype("float32")
    outputs = {"y": (TensorProto.FLOAT, x.shape)}
    path = one_operator(tmp_path, "CumSum", x.shape, axis, outputs, exclusive=exclusive)
    np.testing.assert_array_equal(run(path, x, target), x.cumsum(axis) - exclusive * x)


@everywhere
def test_an_axis_that_takes_too_long_is_refused(tmp_path, target):
    shape = [1, MOST + 1]
    outputs = {"v": (TensorProto.FLOAT, [1, 1]), "i": (TensorProto.INT64, [1, 1])}
    path = one_operator(tmp_path, "TopK", shape, 1, outputs, axis=1)
    with pytest.raises(InputError, match="TopK along an axis of 16385: at most 16384 are accepted"):
        compile_onnx(path, tmp_path / "artifact", target=target, precision="fp32")
    assert not (tmp_path / "artifact").exists()
