"""OwnResult: what nothing computes is copied, and what is computed stays as it is."""

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.passes.own_result import OwnResult, why_not
from tests.relax_modules import module, operators, run

X = np.array([[1.0, np.nan, -0.0, np.inf]], "float32")
CONSTANT = np.array([[2.0, 3.0]], "float32")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda builder, x: x, X),
        (lambda builder, x: builder.emit(builder.emit(x)), X),
        (lambda builder, x: relax.const(CONSTANT), CONSTANT),
    ],
)
def test_what_nothing_computes_is_copied(body, expected):
    before = module(X.shape, body)
    assert why_not(before["main"]) is None
    after = OwnResult()(before)
    assert operators(after) == ["copy"]
    assert why_not(after["main"]) == "it computes what it returns"
    np.testing.assert_array_equal(run(after, X), expected)


def test_what_is_computed_stays_as_it_is():
    before = module(X.shape, lambda builder, x: relax.op.nn.relu(x))
    assert OwnResult()(before).same_as(before)
