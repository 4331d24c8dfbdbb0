"""Small ONNX models, and what an imported one computes."""

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from rt3d_tvm.compile.frontend import import_onnx

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


def run_both(path, shape):
    """The output of stock TVM on the imported module, and that of ONNX Runtime."""
    x = weights(*shape, seed=1)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return run_imported(path, x), session.run(None, {"x": x})[0]


def run_imported(path, x):
    target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
    vm = relax.VirtualMachine(tvm.compile(import_onnx(path), target=target), tvm.cpu())
    return vm["main"](tvm.runtime.tensor(x)).numpy()


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


def ints(name, *values):
    return tensor(name, np.array(values, np.int64))
