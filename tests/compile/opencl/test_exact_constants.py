"""ExactConstants: every float32 of a program has its own bits on the device."""

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import tirx

from rt3d_tvm.artifact.opencl.artifact import load_opencl
from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.opencl.exact_constants import ExactConstants
from tests.opencl import device
from tests.quantized_models import net, quantized_by_onnxruntime

# Of all sizes; with seven digits each is another float32, or two are one.
CONSTANTS = [12582912.0, 16777215.0, 1 / 3, -2.3456789e-21, 3.4028235e38, 1.00000012, 0.5, -1.0]


def test_a_constant_has_all_of_its_bits(tmp_path):
    device(half=False)
    value = np.array(CONSTANTS, "float32")
    nodes, outputs = [], []
    for i in range(value.size):
        nodes.append(helper.make_node("Mul", ["x", f"c{i}"], [f"y{i}"]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, (1, 4)))
    graph = helper.make_graph(
        nodes,
        "constants",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4))],
        outputs,
        [numpy_helper.from_array(each, f"c{i}") for i, each in enumerate(value)],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "m.onnx")
    compile_onnx(tmp_path / "m.onnx", tmp_path / "artifact", target="opencl", precision="fp32")
    results = load_opencl(tmp_path / "artifact").run(np.ones((1, 4), "float32"))
    for i, expected in enumerate(value):
        assert (results[f"y{i}"] == expected).all(), (i, expected)


def test_only_what_its_digits_would_change_is_replaced():
    numbers = [np.inf, np.nan, 0.1, 12582912.0]
    body = [tirx.Evaluate(tirx.const(number, "float32")) for number in numbers]
    body += [tirx.Evaluate(tirx.const(1 / 3, "float16"))]
    module = tvm.IRModule({"main": tirx.PrimFunc([], tirx.SeqStmt(body))})
    changed = ExactConstants()(module)["main"].body.seq
    same = [new.value.same_as(old.value) for new, old in zip(changed, body, strict=True)]
    assert same == [False, False, True, False, True]


@pytest.mark.parametrize(
    ("precision", "accumulate"), [("fp32", None), ("fp16", "fp32"), ("fp16", "fp16")]
)
def test_a_quantised_network_is_what_onnx_runtime_computes(tmp_path, precision, accumulate):
    device(half=precision == "fp16")
    path = quantized_by_onnxruntime(tmp_path, net(3))
    compile_onnx(
        path, tmp_path / "artifact", target="opencl", precision=precision, accumulate=accumulate
    )
    result = verify(tmp_path / "artifact", path, inputs=2)
    assert result.passed, result
