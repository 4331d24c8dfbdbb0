"""Recurrent layers written out: every kind, direction and start, against ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.frontend import import_onnx, layer_names
from rt3d_tvm.errors import InputError
from tests.compile.onnx_models import tensor, weights

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
RESULTS = {"GRU": ("Y", "Y_h"), "LSTM": ("Y", "Y_h", "Y_c"), "RNN": ("Y", "Y_h")}
STEPS, BATCH, INPUTS, SIZE = 4, 2, 5, 3


def recurrent(kind, *, starts=False, bias=True, more=(), steps=STEPS, **attributes):
    """A model of one layer on x (steps, batch, inputs), of all of its results."""
    ways = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[kind] * SIZE
    constants = {"W": weights(ways, rows, INPUTS), "R": weights(ways, rows, SIZE, seed=2)}
    names = ["x", "W", "R", "B" if bias else ""]
    if bias:
        constants["B"] = weights(ways, 2 * rows, seed=3)
    taken = {"x": (steps, BATCH, INPUTS)}
    if starts:
        states = ("h", "c") if kind == "LSTM" else ("h",)
        taken |= dict.fromkeys(states, (ways, BATCH, SIZE))
        names += ["", *states]
    names += more
    node = helper.make_node(
        kind, names, list(RESULTS[kind]), "layer", hidden_size=SIZE, **attributes
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in taken.items()],
        [helper.make_empty_tensor_value_info(name) for name in RESULTS[kind]],
        [tensor(name, value) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("GRU", {}),
        ("GRU", {"linear_before_reset": 1, "direction": "reverse"}),
        ("GRU", {"linear_before_reset": 1, "direction": "bidirectional", "starts": True}),
        ("GRU", {"bias": False, "direction": "reverse", "activations": ["Tanh", "Relu"]}),
        ("LSTM", {"direction": "bidirectional", "starts": True}),
        ("LSTM", {"direction": "reverse", "bias": False}),
        ("RNN", {"direction": "bidirectional", "activations": ["Relu", "Tanh"]}),
        ("RNN", {"starts": True}),
    ],
    ids=str,
)
def test_all_results_are_those_of_onnx_runtime(save, kind, given, tmp_path):
    path = save(recurrent(kind, **given))
    compile_onnx(path, tmp_path / "artifact", strict=True)
    result = verify(tmp_path / "artifact", path)
    assert result.max_rel_error <= 1e-5
    assert result.sensitivity > 0.01


def test_the_products_with_the_input_are_one_layer(save):
    """Named after the node, once per direction; those with the state are none."""
    path = save(recurrent("LSTM", direction="bidirectional"))
    assert layer_names(path) == ["layer:0", "layer:1"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"clip": 1.0}, "GRU with clip is not accepted"),
        ({"activations": ["Softsign", "Tanh"]}, "Sigmoid, Tanh, Relu are known"),
        ({"steps": 257}, "GRU of 257 steps; up to 256 are accepted"),
    ],
    ids=str,
)
def test_what_is_not_written_out_is_refused(save, given, reason):
    model = recurrent("GRU", **given)
    with pytest.raises(InputError, match=reason):
        import_onnx(save(model))


def test_lengths_and_computed_weights_are_refused_at_once(save):
    """One reason for each of two nodes of a model."""
    model = recurrent("LSTM")
    (layer,) = model.graph.node
    model.graph.initializer.append(tensor("lengths", np.full(BATCH, STEPS - 1, np.int32)))
    layer.input.append("lengths")
    weight = helper.make_node("Mul", ["W", "scale"], ["V"])
    scale = helper.make_node("ReduceMax", ["x"], ["scale"], keepdims=0)
    other = helper.make_node("LSTM", ["x", "V", "R"], ["", "Z"], "second", hidden_size=SIZE)
    model.graph.node.extend([scale, weight, other])
    model.graph.output.append(helper.make_tensor_value_info("Z", 1, [1, BATCH, SIZE]))
    onnxruntime.InferenceSession(model.SerializeToString())  # it is a model
    with pytest.raises(InputError) as refusal:
        import_onnx(save(model))
    assert "lengths of sequences" in str(refusal.value)
    assert "node second: LSTM with weights that are computed" in str(refusal.value)
