"""WrittenOut: PReLU and BatchNorm as operators of kernels; declined with a reason; the numbers."""

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.passes.written_out import WrittenOut, why_not
from tests.relax_modules import draw, module, operators, run

SHAPE = (2, 5, 3, 4, 2)
CONSTANTS = [draw((5,), seed=seed) for seed in range(3)] + [abs(draw((5,), seed=4)) + 0.1]


def prelu(slopes, axis=1):
    return lambda b, x: relax.op.nn.prelu(x, relax.const(slopes), axis=axis)


def batch_norm(builder, x, **options):
    constants = map(relax.const, CONSTANTS)
    norm = builder.emit(relax.op.nn.batch_norm(x, *constants, axis=1, training=False, **options))
    return builder.emit(norm[0])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (prelu(draw((1,))), ["relax.nn.leakyrelu"]),
        (
            prelu(draw((5,))),
            ["relax.minimum", "relax.multiply", "relax.nn.relu", "relax.add"],
        ),
        (batch_norm, ["relax.multiply", "relax.add"]),
        (lambda b, x: batch_norm(b, x, scale=False), ["relax.multiply", "relax.add"]),
        (lambda b, x: batch_norm(b, x, center=False), ["relax.multiply", "relax.add"]),
    ],
)
def test_it_is_written_in_operators_with_the_same_numbers(body, expected):
    before = module(SHAPE, body)
    after = WrittenOut()(before)
    assert operators(after) == expected
    x = draw(SHAPE, seed=9)
    np.testing.assert_allclose(run(after, x), run(before, x), rtol=1e-5, atol=1e-5)


def test_what_is_left_alone_says_why():
    x, slope = (relax.Var(n, relax.TensorType((1, 4, 2, 2, 2), "float32")) for n in "xs")
    assert why_not(relax.op.nn.relu(x)) == "it is no PReLU and no BatchNorm"
    assert why_not(relax.op.nn.prelu(x, slope)).startswith("its slope is no constant")
