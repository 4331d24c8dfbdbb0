"""EvaluateConstants: rewritten, declined, and the same numbers."""

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.passes.evaluate_constants import EvaluateConstants
from tests.relax_modules import draw, module, operators, run

SHAPE = (1, 4, 3, 2, 2)


def test_a_clips_bounds_and_a_bias_are_evaluated():
    """As the importer leaves them; what is computed from the input stays."""

    def body(builder, x):
        bound = relax.const(np.float32(np.nan))
        unbounded = builder.emit(relax.op.isnan(bound))
        bound = builder.emit(relax.op.where(unbounded, relax.const(np.float32(np.inf)), bound))
        bias = relax.const(np.arange(4, dtype="float32"))
        bias = builder.emit(relax.op.reshape(bias, (1, 4, 1, 1, 1)))
        y = builder.emit(relax.op.minimum(builder.emit(relax.op.add(x, bias)), bound))
        return relax.op.reshape(y, (4, 12))

    before = module(SHAPE, body)
    after = EvaluateConstants()(before)
    assert operators(after) == ["relax.add", "relax.minimum", "relax.reshape"]
    x = draw(SHAPE)
    np.testing.assert_array_equal(run(before, x), run(after, x))
    np.testing.assert_array_equal(
        run(after, x), (x + np.arange(4, dtype="float32").reshape(4, 1, 1, 1)).reshape(4, 12)
    )


def test_other_operators_are_left_to_fold_constant():
    def body(builder, x):
        return relax.op.add(x, builder.emit(relax.op.exp(relax.const(np.float32(1)))))

    before = module(SHAPE, body)
    tvm.ir.assert_structural_equal(EvaluateConstants()(before), before)


def test_a_constant_result_stays():
    def body(builder, x):
        return relax.op.reshape(relax.const(np.arange(6, dtype="float32")), (2, 3))

    after = EvaluateConstants()(module(SHAPE, body))
    expected = np.arange(6, dtype="float32").reshape(2, 3)
    np.testing.assert_array_equal(run(after, draw(SHAPE)), expected)
