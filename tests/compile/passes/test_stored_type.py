"""with_stored_type: which operators follow their values, which get them back, the same numbers."""

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import bindings
from rt3d_tvm.compile.legalize import LOOPS
from rt3d_tvm.compile.passes.stored_type import with_stored_type
from tests.relax_modules import SHAPE, module, operators, run

X = np.random.default_rng(0).standard_normal(SHAPE, dtype="float32")
SCALE = relax.const(np.float32(0.02))
# Operators on int8 values: with them, and with values that have been brought back to their type.
FOLLOWING = {
    "slice": lambda b, q: relax.op.strided_slice(q, axes=[1], begin=[1], end=[4]),
    "split": lambda b, q: b.emit(b.emit(relax.op.split(q, 2, axis=1))[1]),
    "minimum": lambda b, q: relax.op.minimum(q, relax.const(np.int8(30))),
    "relu": lambda b, q: relax.op.nn.relu(q),
    "concat": lambda b, q: relax.op.concat([q, relax.const(np.full(SHAPE, -7, "int8"))], axis=1),
}
OTHERS = {
    "negative": lambda b, q: relax.op.negative(q),
    "sum": lambda b, q: relax.op.add(q, b.emit(relax.op.negative(q))),
}


def between(operator):
    def body(builder, x):
        zero = relax.const(np.int8(-3))
        stored = builder.emit(relax.op.quantize(x, SCALE, zero, axis=-1, out_dtype="int8"))
        result = builder.emit(operator(builder, stored))
        return relax.op.dequantize(result, SCALE, zero, axis=-1)

    return module(SHAPE, body)


def stored_types(mod):
    """The 8-bit types of a module's values."""
    tensors = [b.var.ty for b in bindings(mod["main"]) if isinstance(b.var.ty, relax.TensorType)]
    return {str(ty.dtype.dtype) for ty in tensors} - {"float32", "int32"}


@pytest.mark.parametrize("name", [*FOLLOWING, *OTHERS])
def test_what_values_stand_for_stays_the_same(name):
    before = between({**FOLLOWING, **OTHERS}[name])
    after = with_stored_type(before, "uint8")
    assert stored_types(after) == ({"uint8"} if name in FOLLOWING else {"int8", "uint8"})
    legalize = relax.transform.LegalizeOps(LOOPS)
    np.testing.assert_array_equal(run(legalize(after), X), run(legalize(before), X))


@pytest.mark.parametrize("name", OTHERS)
def test_values_of_the_type_that_is_stored_stay_as_they_are(name):
    before = between(OTHERS[name])
    assert operators(with_stored_type(before, "int8")) == operators(before)
