"""Indices of a Gather that a model computes stay inside of what they index."""

import numpy as np
from onnx import TensorProto, helper
from tvm import relax

from rt3d_tvm.artifact.load import load
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.passes.bounded_take import BoundedTake, why_not
from tests.compile.onnx_models import make_model, tensor, weights


def module(mode):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    index = relax.Var("index", relax.TensorType((4,), "int64"))
    with builder.function("main", [x, index]):
        with builder.dataflow():
            result = builder.emit_output(relax.op.take(x, index, 1, mode=mode))
        builder.emit_func_output(result)
    return builder.get()


def calls(mod):
    return [binding.value for block in mod["main"].body.blocks for binding in block.bindings]


def test_a_take_is_bounded_and_a_bounded_one_stays():
    (before,) = calls(module("fast"))
    (after,) = calls(BoundedTake()(module("fast")))
    assert why_not(before) is None and (before.attrs.mode, after.attrs.mode) == ("fast", "clip")
    assert int(after.attrs.axis) == 1
    wrapped = module("wrap")
    assert "mode wrap" in why_not(calls(wrapped)[0])
    assert calls(BoundedTake()(wrapped))[0].attrs.mode == "wrap"
    relu = relax.op.nn.relu(relax.Var("x", relax.TensorType((2,), "float32")))
    assert why_not(relu) == "it is no take"


def test_an_index_from_an_input_far_outside_reads_the_nearest(tmp_path, save):
    nodes = [
        helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["y"]),
    ]
    table = weights(5)
    path = save(make_model(nodes, [tensor("table", table)], shape=(6,)))
    compile_onnx(path, tmp_path / "a")
    x = np.array([0, 4, -1, 5, 1e9, -1e9], np.float32)
    expected = table[[0, 4, 4, 4, 4, 0]]
    np.testing.assert_array_equal(load(tmp_path / "a").run(x), expected)
