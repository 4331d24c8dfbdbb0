"""Broadcasts: rewritten, declined with a reason, and the same numbers."""

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import bindings
from rt3d_tvm.compile.passes import broadcasts
from rt3d_tvm.compile.passes.broadcasts import Broadcasts
from tests.relax_modules import draw, module, operators, run

SHAPE = (2, 8, 3, 4, 5)


def repeated(builder, value, shape=SHAPE):
    return builder.emit(relax.op.broadcast_to(builder.emit(relax.op.abs(value)), shape))


@pytest.mark.parametrize("part", [(2, 1, 3, 4, 5), (1, 8, 1, 1, 1), (4, 5), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize("first", [True, False])
def test_an_operator_reads_what_was_repeated_for_it(part, first):
    def body(b, x):
        operands = [x, repeated(b, relax.const(draw(part)))]
        return relax.op.subtract(*(operands if first else reversed(operands)))

    before = module(SHAPE, body)
    after = Broadcasts()(before)
    assert operators(after) == ["relax.abs", "relax.subtract"]
    np.testing.assert_array_equal(run(after, draw(SHAPE)), run(before, draw(SHAPE)))


def test_what_makes_the_shape_stays():
    """Two repeated ones, of which one alone has it; and a repetition that others read."""

    def both(b, x):
        channels = b.emit(relax.op.mean(x, axis=[2, 3, 4], keepdims=True))
        places = b.emit(relax.op.mean(x, axis=[0, 1], keepdims=True))
        return relax.op.add(repeated(b, channels), repeated(b, places))

    def read_twice(b, x):
        wide = repeated(b, relax.const(draw((2, 1, 3, 4, 5))))
        return relax.op.concat([b.emit(relax.op.add(x, wide)), wide], axis=1)

    for body in (both, read_twice):
        before = module(SHAPE, body)
        after = Broadcasts()(before)
        assert operators(after).count("relax.broadcast_to") == 1
        np.testing.assert_array_equal(run(after, draw(SHAPE)), run(before, draw(SHAPE)))


def test_declined_with_a_reason():
    mod = module(SHAPE, lambda b, x: relax.op.concat([x, repeated(b, x)], axis=1))
    call = bindings(mod["main"])[-1].value
    assert broadcasts.why_not(call) == "it is no operator on two values"
    assert operators(Broadcasts()(mod)) == operators(mod)
