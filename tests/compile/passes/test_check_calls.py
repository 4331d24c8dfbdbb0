"""CheckCalls: a call of other tensors than its function takes ends the compilation."""

import pytest
from tvm import relax

from rt3d_tvm.compile.ir.packed_call import emit_call
from rt3d_tvm.compile.passes.check_calls import CheckCalls
from tests.relax_modules import module
from topi_sparse import packed
from topi_sparse.layout import PackedLayout

SHAPE = (1, 8, 3, 4, 5)
PACK = packed.pack(SHAPE, PackedLayout(c_block=4), "float32", plain="float32")


def test_calls_that_fit_stay_as_they_are():
    mod = module(SHAPE, lambda builder, x: emit_call(builder, "pack", PACK, [x]))
    assert CheckCalls()(mod).same_as(mod)


@pytest.mark.parametrize("other", [((1, 8, 3, 4, 6), "float32"), (SHAPE, "float16")])
def test_another_shape_or_type_is_an_error(other):
    shape, dtype = other

    def body(builder, x):
        if dtype != "float32":
            x = builder.emit(relax.op.astype(x, dtype))
        return emit_call(builder, "pack", PACK, [x])

    with pytest.raises(Exception, match=r"pack takes \[1, 8, 3, 4, 5\] of float32 as x"):
        CheckCalls()(module(shape, body))
