"""KeepPacked: operands of packed values that are not packed themselves."""

import json

import pytest
from tvm import relax

from rt3d_tvm.compile.passes.keep_packed import CHANGES_ATTRIBUTE, UNPACKED_ATTRIBUTE
from tests.compile.passes.test_keep_packed import BACK, CHANNELS, check
from tests.relax_modules import conv, draw


@pytest.mark.parametrize("shape", [(1, 1, 4, 6, 7), (1, 1, 4, 1, 1), (1, 1, 1, 1, 7)])
def test_a_single_channel_that_is_not_packed_is_read_as_it_lies(shape):
    def body(builder, x):
        y = builder.emit(conv(x, CHANNELS))
        share = builder.emit(relax.op.flip(relax.const(draw(shape)), axis=2))
        return conv(builder.emit(relax.op.multiply(share, y)), BACK, padding=(0, 1, 1))

    after = check(body)
    assert int(after.attrs[CHANGES_ATTRIBUTE]) == 2
    assert json.loads(after.attrs[UNPACKED_ATTRIBUTE]) == []


def test_several_channels_that_are_not_packed_are_packed():
    def body(builder, x):
        y = builder.emit(conv(x, CHANNELS))
        share = builder.emit(relax.op.flip(relax.const(draw((1, 16, 4, 6, 7))), axis=2))
        return conv(builder.emit(relax.op.multiply(share, y)), BACK, padding=(0, 1, 1))

    assert int(check(body).attrs[CHANGES_ATTRIBUTE]) > 2
