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
    """As the graph is written: optimised, a pool takes in a Pad that is wider than its window."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
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


@pytest.mark.parametrize(
    ("pads", "options", "changes"),
    [
        ([0, 0, 0, 1, 2, 0, 0, 1, 0, 1], {}, 2),
        ([0, 1, 2, 1], {"axes": [-1, 2], "value": 0.5}, 2),
        ([0, 2, 0, 0, 0, 0, 3, 0, 0, 0], {}, 2),
        ([0, 0, 0, 1, 2, 0, 0, 1, 0, 1], {"mode": "edge"}, 4),
        ([0, 0, 0, -1, 2, 0, 0, 1, 0, 1], {}, 4),
    ],
    ids=str,
)
def test_a_pad_by_a_number_between_layers_is_packed(tmp_path, pads, options, changes):
    """Before a pool, as TensorFlow's SAME is written; of an edge, or one that cuts, it is not."""
    made = model(pads, **options)
    extra = pads[1] + pads[6] if len(pads) == 10 else 0
    del made.graph.node[:], made.graph.value_info[:]
    rng = np.random.default_rng(2)
    for name, shape in (("a", (8, 3, 1, 1, 1)), ("b", (8, 8 + extra, 1, 1, 1))):
        value = rng.standard_normal(shape, dtype="float32")
        made.graph.initializer.append(numpy_helper.from_array(value, name))
    names = ["c", "pads", "value", *(["axes"] if "axes" in options else [])]
    made.graph.node.extend(
        [
            helper.make_node("Conv", ["x", "a"], ["c"]),
            helper.make_node("Pad", names, ["p"], mode=options.get("mode", "constant")),
            helper.make_node("MaxPool", ["p"], ["m"], kernel_shape=[1, 2, 2], strides=[1, 2, 2]),
            helper.make_node("Conv", ["m", "b"], ["y"]),
        ]
    )
    made.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info("y"))
    onnx.save(onnx.shape_inference.infer_shapes(made, data_prop=True), tmp_path / "m.onnx")
    manifest = compile_onnx(tmp_path / "m.onnx", tmp_path / "artifact")
    assert manifest["layout_changes"] == changes
    x = np.random.default_rng(1).standard_normal(SHAPE, dtype="float32")
    got = load(tmp_path / "artifact").run(x)
    np.testing.assert_allclose(got, outputs(made, x), rtol=1e-4, atol=1e-4)
