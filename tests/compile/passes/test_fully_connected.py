"""FullyConnectedAsConv3d: rewritten, declined, and the same numbers."""

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.fully_connected import FullyConnectedAsConv3d
from rt3d_tvm.compile.passes.keep_packed import CHANGES_ATTRIBUTE, KeepPacked
from rt3d_tvm.compile.passes.kept_axes import KeptAxes
from rt3d_tvm.compile.targets import make_target
from tests.oracle import sum_bound
from tests.relax_modules import conv, draw, module, operators, run, weight_of

TARGET = make_target("x86-64-avx2")  # channel blocks of 8


@pytest.mark.parametrize(
    ("batch", "relu", "bias"), [(1, True, True), (3, False, True), (2, True, False)]
)
def test_fully_connected_layers_share_the_kernel(batch, relu, bias):
    weight = np.random.default_rng(0).standard_normal((40, 24)).astype("float32")
    shift = draw((24,))

    def body(builder, x):
        y = builder.emit(relax.op.matmul(x, relax.const(weight)))
        if bias:
            y = builder.emit(relax.op.add(y, relax.const(shift)))
        return relax.op.nn.relu(y) if relu else relax.op.reshape(y, (batch * 24,))

    mod = FullyConnectedAsConv3d()(module((batch, 40), body))
    assert "relax.matmul" not in operators(mod)
    mod = KeepPacked()(CompactConv3d(TARGET)(mod))
    # One position, whole blocks: every layout change is a view.
    assert set(operators(mod)) == {"relax.reshape", "kgs_conv3d"}
    x = draw((batch, 40))
    expected = x.astype("float64") @ weight.astype("float64") + (shift if bias else 0)
    size = abs(x).astype("float64") @ abs(weight).astype("float64") + abs(shift)
    if relu:
        expected = np.maximum(expected, 0)
    result = run(mod, x).reshape(batch, 24)
    assert (abs(result - expected) <= sum_bound(42, size)).all()


def test_a_matmul_of_two_inputs_is_left():
    def body(builder, x):
        return relax.op.matmul(x, builder.emit(relax.op.permute_dims(x)))

    assert "relax.matmul" in operators(FullyConnectedAsConv3d()(module((3, 4), body)))


@pytest.mark.parametrize(
    "addend",
    [
        lambda y: relax.op.add(y, relax.const(draw((6, 1)))),
        lambda y: relax.op.add(relax.const(draw((6, 1))), y),
        lambda y: relax.op.add(relax.const(np.float32(2.5)), y),
        lambda y: relax.op.add(y, relax.const(draw((1, 6)))),
        lambda y: relax.op.add(y, relax.const(draw((1, 1, 6)))),
        lambda y: relax.op.add(y, y),
    ],
)
def test_only_a_bias_of_the_layer_is_taken_in(addend):
    """A batch as large as the layer is wide: sizes alone would not tell rows from columns."""
    weight = draw((4, 6), seed=2)

    def body(builder, x):
        return addend(builder.emit(relax.op.matmul(x, relax.const(weight))))

    before = module((6, 4), body)
    after = KeepPacked()(CompactConv3d(TARGET)(FullyConnectedAsConv3d()(before)))
    x = draw((6, 4))
    expected, result = run(before, x), run(after, x)
    assert result.shape == expected.shape
    bound = sum_bound(6, (abs(x) @ abs(weight) + 3).max())
    assert (abs(result - expected) <= 2 * bound).all()


def test_a_function_without_a_dataflow_block():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 40), "float32"))
    weight = draw((40, 24))
    with builder.function("main", [x]):
        y = builder.emit(relax.op.matmul(x, relax.const(weight)))
        builder.emit_func_output(y)
    mod = KeepPacked()(CompactConv3d(TARGET)(FullyConnectedAsConv3d()(builder.get())))
    assert "kgs_conv3d" in operators(mod)
    data = draw((2, 40))
    bound = sum_bound(41, abs(data) @ abs(weight))
    assert (abs(run(mod, data) - data.astype("float64") @ weight) <= bound).all()


def hard_sigmoid(builder, y):
    y = builder.emit(relax.op.multiply(y, relax.const(np.float32(1 / 6))))
    return relax.op.clip(builder.emit(relax.op.add(y, relax.const(np.float32(0.5)))), 0, 1)


def silu(builder, y):
    return relax.op.multiply(y, builder.emit(relax.op.sigmoid(y)))


@pytest.mark.parametrize(
    ("act", "value"),
    [
        (lambda _, y: relax.op.sigmoid(y), lambda y: 1 / (1 + np.exp(-y))),
        (hard_sigmoid, lambda y: np.clip(y / 6 + 0.5, 0, 1)),
        (silu, lambda y: y / (1 + np.exp(-y))),
    ],
    ids=["sigmoid", "hard_sigmoid", "silu"],
)
def test_gates_of_linear_layers_stay_packed(act, value):
    """Squeeze-and-excitation of matrices: a mean, two layers, a factor per channel."""
    rng = np.random.default_rng(0)
    narrow, wide = (rng.standard_normal(each).astype("float32") for each in ((8, 16), (16, 8)))
    first, bias = weight_of((8, 8, 1, 1, 1)), draw((8,))

    def body(builder, x):
        x = builder.emit(conv(x, first, padding=0))
        y = builder.emit(relax.op.mean(x, [2, 3, 4]))
        y = builder.emit(relax.op.nn.relu(builder.emit(relax.op.matmul(y, relax.const(narrow)))))
        y = builder.emit(relax.op.matmul(y, relax.const(wide)))
        y = builder.emit(act(builder, builder.emit(relax.op.add(y, relax.const(bias)))))
        for axis in (2, 3, 4):
            y = builder.emit(relax.op.expand_dims(y, axis))
        return conv(builder.emit(relax.op.multiply(x, y)), first, padding=0)

    x = draw((1, 8, 3, 4, 5))
    mod = FullyConnectedAsConv3d()(KeptAxes()(module(x.shape, body)))
    mod = relax.transform.RemoveRedundantReshape()(mod)
    mod = KeepPacked()(CompactConv3d(TARGET)(mod))
    assert int(mod.attrs[CHANGES_ATTRIBUTE]) == 2
    weight = first[:, :, 0, 0, 0].astype("float64")
    y = np.einsum("bndhw,mn->bmdhw", x, weight)
    gate = np.maximum(y.mean((2, 3, 4)) @ narrow, 0) @ wide + bias
    y = np.einsum("bndhw,mn->bmdhw", y * value(gate)[:, :, None, None, None], weight)
    assert np.abs(run(mod, x) - y).max() <= 1e-5 * np.abs(y).max()
