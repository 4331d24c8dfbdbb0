"""A Pad of zeros before a Conv becomes the Conv's padding, or stays with the same result."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rt3d_tvm.artifact.load import load
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.onnx_pads import merge_pads

SHAPE = (1, 3, 2, 7, 8)
PADS = [0, 0, 0, 1, 2, 0, 0, 1, 0, 1]  # along D behind, along H and W more before


def model(pads, *, value=0.0, axes=None, mode="constant", opset=18):
    """x, a Pad, and a Conv that pads by 1 before itself."""
    rng = np.random.default_rng(0)
    channels = 3 + pads[1] if axes is None else 3
    values = {
        "pads": np.array(pads),
        "value": np.float32(value),
        "weight": rng.standard_normal((4, channels, 2, 3, 3), dtype="float32"),
    }
    values |= {} if axes is None else {"axes": np.array(axes)}
    names = ["x", "pads", "value"] + ([] if axes is None else ["axes"])
    nodes = [
        helper.make_node("Pad", names, ["p"], mode=mode),
        helper.make_node("Conv", ["p", "weight"], ["y"], pads=[0, 1, 1, 0, 0, 0]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)


def merged(made):
    """The Conv's padding, and whether it reads x itself."""
    merge_pads(made, {"x": SHAPE})
    (conv,) = (node for node in made.graph.node if node.op_type == "Conv")
    (pads,) = (list(a.ints) for a in conv.attribute if a.name == "pads")
    return pads, conv.input[0] == "x"


def outputs(made, x):
    session = onnxruntime.InferenceSession(made.SerializeToString())
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("axes", [None, [-1, 2, 3]])
def test_zeros_are_the_convolutions_own(axes):
    pads = PADS if axes is None else [2, 0, 1, 1, 1, 0]
    made = model(pads, axes=axes)
    x = np.random.default_rng(1).standard_normal(SHAPE, dtype="float32")
    before = outputs(made, x)
    assert merged(made) == ([0, 2, 3, 1, 0, 1], True)
    np.testing.assert_allclose(outputs(made, x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"value": 1.0},
        {"mode": "edge"},
        {"pads": [0, 1, *PADS[2:]]},
        {"pads": [0, 0, 0, -1, *PADS[4:]]},
    ],
)
def test_other_pads_stay(options):
    made = model(options.pop("pads", PADS), **options)
    assert merged(made) == ([0, 1, 1, 0, 0, 0], False)


def test_a_padded_convolution_is_compiled_without_the_pad(tmp_path):
    made = model(PADS)
    onnx.save(made, tmp_path / "m.onnx")
    manifest = compile_onnx(tmp_path / "m.onnx", tmp_path / "artifact")
    assert not [call for call in manifest["calls"] if "pad" in call["function"]]
    x = np.random.default_rng(1).standard_normal(SHAPE, dtype="float32")
    got = load(tmp_path / "artifact").run(x)
    np.testing.assert_allclose(got, outputs(made, x), rtol=1e-4, atol=1e-4)
