"""A small network of two clips and three outputs: SlowFast's form, with its features beside."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SLOW, FAST = (1, 3, 2, 10, 10), (1, 3, 8, 10, 10)


def two_pathways(path, *, seed=0):
    """Write it: logits, features, and the fast clip's maximum; the paths are one after a stride."""
    rng = np.random.default_rng(seed)

    def drawn(*shape):
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")

    weights = {
        "slow.weight": drawn(16, 3, 1, 3, 3),
        "fast.weight": drawn(8, 3, 3, 3, 3),
        "lateral.weight": drawn(16, 8, 5, 1, 1),
        "joint.weight": drawn(24, 32, 3, 3, 3),
        "head.weight": drawn(5, 24),
        "head.bias": drawn(5, 1).reshape(-1),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["slow", "slow.weight"], ["a"], pads=[0, 1, 1] * 2),
        node("Conv", ["fast", "fast.weight"], ["b"], pads=[1] * 6),
        node("Relu", ["b"], ["c"]),
        node("Conv", ["c", "lateral.weight"], ["d"], strides=[4, 1, 1], pads=[2, 0, 0] * 2),
        node("Concat", ["a", "d"], ["e"], axis=1),
        node("Conv", ["e", "joint.weight"], ["f"], pads=[1] * 6),
        node("Relu", ["f"], ["features"]),
        node("GlobalAveragePool", ["features"], ["g"]),
        node("Flatten", ["g"], ["h"]),
        node("Gemm", ["h", "head.weight", "head.bias"], ["logits"], transB=1),
        node("GlobalMaxPool", ["fast"], ["most"]),
    ]
    shapes = {"logits": (1, 5), "features": (1, 24, 2, 10, 10), "most": (1, 3, 1, 1, 1)}

    def values(of):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in of.items()]

    graph = helper.make_graph(
        nodes,
        "two_pathways",
        values({"slow": SLOW, "fast": FAST}),
        values(shapes),
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def clips(seed=1):
    """An input of each pathway, by name."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape, dtype="float32")
        for name, shape in {"slow": SLOW, "fast": FAST}.items()
    }
