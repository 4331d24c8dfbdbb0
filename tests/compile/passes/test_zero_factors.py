"""ZeroFactors: rewritten, declined with a reason, and the numbers that IEEE 754 asks for."""

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import bindings
from rt3d_tvm.compile.passes.zero_factors import ZeroFactors, why_not
from tests.relax_modules import module, operators, run

X = np.array([[np.nan, np.inf, -np.inf, 0.0, -2.0, 3.0, 1e-40, -1e-40]], "float32")
ZERO = np.float32(0)

# What the module says, the operator that it becomes, and its numbers.
CASES = {
    "x * 0": (lambda x: relax.op.multiply(x, relax.const(0.0)), "relax.multiply", lambda: X * ZERO),
    "0 * x": (lambda x: relax.op.multiply(relax.const(0.0), x), "relax.multiply", lambda: ZERO * X),
    "x / 0": (lambda x: relax.op.divide(x, relax.const(0.0)), "relax.divide", lambda: X / ZERO),
    "x / -0": (lambda x: relax.op.divide(x, relax.const(-0.0)), "relax.divide", lambda: X / -ZERO),
    "0 / x": (lambda x: relax.op.divide(relax.const(0.0), x), "relax.divide", lambda: ZERO / X),
    "leaky": (
        lambda x: relax.op.nn.leakyrelu(x, alpha=0.0),
        "relax.nn.relu",
        lambda: np.maximum(X, 0),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_nan_is_one_whatever_it_is_multiplied_with(name):
    body, operator, expected = CASES[name]
    after = ZeroFactors()(module(X.shape, lambda builder, x: body(x)))
    assert operators(after) == [operator]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(run(after, X), expected())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda x: relax.op.multiply(x, relax.const(2.0)), "constant scalar 0"),
        (lambda x: relax.op.multiply(x, relax.const([0.0])), "constant scalar 0"),
        (lambda x: relax.op.multiply(x, x), "constant scalar 0"),
        (lambda x: relax.op.nn.leakyrelu(x, alpha=0.5), "alpha is 0.5"),
        (lambda x: relax.op.add(x, relax.const(0.0)), "no product"),
    ],
)
def test_declined_with_a_reason(body, said):
    before = module(X.shape, lambda builder, x: body(x))
    assert said in why_not(bindings(before["main"])[-1].value)
    assert operators(ZeroFactors()(before)) == operators(before)
