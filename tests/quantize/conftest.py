"""A small seeded network, pruned in part, and clips and labels for it."""

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.compile.onnx_models import make_model, tensor, weights

SHAPE = (1, 3, 4, 8, 8)
LAYERS = ["stem", "depthwise", "wide", "fc"]


def network(*, opset=18, batch=1, metadata=None):
    """Conv, ReLU, depth-wise Conv, pools, Add, Concat and Gemm; filter 2 of ``wide`` is zero."""
    wide = weights(6, 8, 3, 3, 3, seed=3)
    wide[:, 4:], wide[2] = 0, 0
    bias = weights(6, seed=4)
    nodes = [
        helper.make_node("Conv", ["x", "stem.weight", "stem.bias"], ["a"], pads=[1] * 6),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "depthwise.weight"], ["c"], group=8, pads=[1] * 6),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Conv", ["e", "wide.weight", "wide.bias"], ["f"], pads=[1] * 6),
        helper.make_node("Concat", ["e", "f"], ["g"], axis=1),
        helper.make_node("MaxPool", ["g"], ["h"], kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
        helper.make_node("GlobalAveragePool", ["h"], ["i"]),
        helper.make_node("Flatten", ["i"], ["j"]),
        helper.make_node("Gemm", ["j", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    held = [
        tensor("stem.weight", weights(8, 3, 3, 3, 3, seed=1)),
        tensor("stem.bias", weights(8, seed=2)),
        tensor("depthwise.weight", weights(8, 1, 3, 3, 3, seed=5)),
        tensor("wide.weight", wide),
        tensor("wide.bias", bias),
        tensor("fc.weight", weights(5, 14, seed=6)),
        tensor("fc.bias", weights(5, seed=7)),
    ]
    model = make_model(nodes, held, shape=(batch, *SHAPE[1:]), opset=opset)
    helper.set_model_props(model, metadata or {})
    return model


@pytest.fixture
def model(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def some(count=6, *, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *SHAPE[1:]), dtype=np.float32)


@pytest.fixture
def clips():
    return some()
