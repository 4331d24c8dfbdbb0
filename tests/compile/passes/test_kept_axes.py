"""KeptAxes: rewritten, declined with a reason, and the same numbers."""

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import bindings
from rt3d_tvm.compile.legalize import LOOPS
from rt3d_tvm.compile.passes.kept_axes import KeptAxes, why_not
from tests.relax_modules import SHAPE, module, operators, run

X = np.random.default_rng(0).standard_normal(SHAPE, dtype="float32")


def dropping(builder, x):
    return relax.op.mean(x, axis=[2, 3, 4], keepdims=False)


def quantized(builder, x, scale=0.01):
    zero = relax.const(np.zeros(np.shape(scale), "int8"))
    y = builder.emit(dropping(builder, x))
    return relax.op.quantize(y, relax.const(np.float32(scale)), zero, axis=1, out_dtype="int8")


def test_a_mean_keeps_its_axes_and_a_view_drops_them():
    after = KeptAxes()(module(SHAPE, dropping))
    assert operators(after) == ["relax.mean", "relax.reshape"]
    np.testing.assert_allclose(run(after, X), X.mean(axis=(2, 3, 4)), rtol=1e-5, atol=1e-6)


def test_a_mean_is_quantised_before_the_view():
    after = KeptAxes()(module(SHAPE, quantized))
    assert operators(after) == ["relax.mean", "relax.quantize", "relax.reshape"]
    wanted = np.rint(X.mean(axis=(2, 3, 4), dtype="float64") / 0.01)
    got = run(relax.transform.LegalizeOps(LOOPS)(after), X)
    assert abs(got - wanted).max() <= 1 and np.mean(got != wanted) < 0.2


def test_scales_along_an_axis_stay_behind_the_view():
    before = module(SHAPE, lambda builder, x: quantized(builder, x, scale=np.full(8, 0.01)))
    assert operators(KeptAxes()(before)) == ["relax.mean", "relax.reshape", "relax.quantize"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda builder, x: relax.op.mean(x, axis=[2, 3, 4], keepdims=True), "keeps its axes"),
        (lambda builder, x: relax.op.mean(x), "mean of everything"),
        (lambda builder, x: relax.op.max(x, axis=[2]), "it is no mean"),
    ],
)
def test_declined_with_a_reason(body, said):
    before = module(SHAPE, body)
    assert said in why_not(bindings(before["main"])[-1].value)
    assert operators(KeptAxes()(before)) == operators(before)
