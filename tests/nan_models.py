"""Small models, inputs with values that are no numbers, and what ONNX Runtime makes of them."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 3, 4, 8, 8)
NAN, INF = float("nan"), float("inf")
node = helper.make_node


def values(*shape: int, seed: int = 0) -> np.ndarray:
    scale = np.sqrt(np.prod(shape[1:]))
    return (np.random.default_rng(seed).standard_normal(shape) / scale).astype("float32")


def save(path, nodes, *, shape=SHAPE, **weights):
    """A model from x to the output of the last node."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model, data_prop=True), path)
    return path


def reference(path, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes of the graph as it is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def spoiled(value: float) -> np.ndarray:
    """A clip with one value that is no number, inside and at a corner."""
    x = np.random.default_rng(7).standard_normal(SHAPE).astype("float32")
    x[0, 1, 2, 3, 3] = x[0, 0, 0, 0, 7] = value
    return x


def scalar(value: float) -> np.ndarray:
    return np.array(value, "float32")


# What follows a convolution: nodes from c to y, and their constants.
FOLLOWING = {
    "Relu": ([node("Relu", ["c"], ["y"])], {}),
    "Relu6": (
        [node("Relu", ["c"], ["r"]), node("Clip", ["r", "", "high"], ["y"])],
        {"high": scalar(6)},
    ),
    "Clip": (
        [node("Clip", ["c", "low", "high"], ["y"])],
        {"low": scalar(-0.5), "high": scalar(INF)},
    ),
    "Clip to nothing": (
        [node("Clip", ["c", "low", "high"], ["y"])],
        {"low": scalar(0), "high": scalar(-1)},
    ),
    "LeakyRelu": ([node("LeakyRelu", ["c"], ["y"], alpha=0.1)], {}),
    "HardSwish": ([node("HardSwish", ["c"], ["y"])], {}),
    "HardSigmoid": ([node("HardSigmoid", ["c"], ["y"], alpha=0.0)], {}),
    "residual": ([node("Add", ["c", "c"], ["a"]), node("Relu", ["a"], ["y"])], {}),
    "divided by 0": (
        [node("Relu", ["c"], ["r"]), node("Div", ["r", "o"], ["y"])],
        {"o": scalar(0)},
    ),
}


def diverged(path, *, bias: float = NAN, last: float = 1.0):
    """A classifier with filters that are pruned whole, one of which has this as its bias.

    ``last``: the weight of the one feature that a class looks at.
    """
    first, second = values(16, 3, 3, 3, 3), values(8, 16, 1, 1, 1, seed=1)
    first[::2] = 0
    added = values(16, 1, seed=2).reshape(-1)
    added[4] = bias
    nodes = [
        node("Conv", ["x", "first.weight", "first.bias"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "second.weight"], ["c"]),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "last.weight"], ["y"], transB=1),
    ]
    weights = {"first.weight": first, "first.bias": added, "second.weight": second}
    return save(path, nodes, **weights, **{"last.weight": last * np.eye(5, 8, dtype="float32")})
