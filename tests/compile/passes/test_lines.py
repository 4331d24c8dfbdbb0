"""Conv2dAsConv3d: a convolution along one axis finds its line along W, where kernels are fast."""

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.conv2d import Conv2dAsConv3d
from rt3d_tvm.compile.passes.keep_packed import CHANGES_ATTRIBUTE, KeepPacked
from rt3d_tvm.compile.targets import make_target
from tests.relax_modules import bindings, draw, is_op, module, operators, run, weight_of

TARGET = make_target("x86-64-avx2")
FIRST, SECOND, THIRD = (relax.const(weight_of((16, n, 3, 1, 1), seed=n)) for n in (8, 16, 16))
WIDE = relax.const(weight_of((16, 16, 3, 3, 3), seed=4))


PLANES = relax.const(weight_of((16, 8, 1, 3, 3), seed=2))


def chain(b, x):
    """Two convolutions, a residual, a slice of frames."""
    y = b.emit(relax.op.nn.relu(b.emit(relax.op.nn.conv3d(x, FIRST, padding=(1, 0, 0)))))
    z = b.emit(relax.op.nn.conv3d(y, SECOND, padding=(2, 0, 0)))
    z = b.emit(relax.op.strided_slice(z, [2], [0], [12]))
    return relax.op.nn.relu(b.emit(relax.op.add(z, y)))


def windows_beside_it(b, x):
    """The other axes of the window see padding alone."""
    y = b.emit(relax.op.nn.conv3d(x, FIRST, padding=(1, 0, 0)))
    return relax.op.nn.conv3d(y, WIDE, padding=1, strides=(2, 1, 1))


def gate(b, x):
    """A line of a clip's means, and back over the clip."""
    y = b.emit(relax.op.nn.conv3d(x, PLANES, padding=(0, 1, 1)))
    mean = b.emit(relax.op.mean(y, axis=[3, 4], keepdims=True))
    line = b.emit(relax.op.nn.conv3d(mean, SECOND, padding=(1, 0, 0)))
    gated = b.emit(relax.op.multiply(y, b.emit(relax.op.sigmoid(line))))
    return relax.op.nn.conv3d(gated, WIDE, padding=1)


def rows(b, x):
    y = b.emit(relax.op.nn.conv3d(x, relax.const(weight_of((16, 8, 1, 3, 1))), padding=(0, 1, 0)))
    return relax.op.nn.max_pool3d(y, pool_size=(1, 2, 1), strides=(1, 2, 1))


def windows_of(mod):
    """The extents of each convolution's window."""
    found = [each.value for each in bindings(mod["main"]) if is_op(each.value, "relax.nn.conv3d")]
    return [tuple(map(int, call.args[1].ty.shape))[2:] for call in found]


@pytest.mark.parametrize(
    ("body", "shape", "windows"),
    [
        (chain, (1, 8, 12, 1, 1), [(1, 1, 3), (1, 1, 3)]),
        (chain, (2, 8, 12, 1, 1), [(1, 1, 3), (1, 1, 3)]),
        (windows_beside_it, (1, 8, 12, 1, 1), [(1, 1, 3), (3, 3, 3)]),
        (gate, (1, 8, 12, 5, 4), [(1, 3, 3), (1, 1, 3), (3, 3, 3)]),
        (rows, (1, 8, 1, 12, 1), [(1, 1, 3)]),
        (rows, (1, 8, 2, 12, 1), [(1, 3, 1)]),  # two lines are a plane
    ],
)
def test_a_line_lies_along_the_columns(body, shape, windows):
    before = module(shape, body)
    after = Conv2dAsConv3d()(before)
    assert windows_of(after) == windows
    kept = KeepPacked()(CompactConv3d(TARGET)(after))
    assert int(kept.attrs[CHANGES_ATTRIBUTE]) == 2
    # Sums of up to 432 terms of about 1.
    x = draw(shape)
    np.testing.assert_allclose(run(kept, x), run(before, x), rtol=0, atol=1e-4)


def test_a_line_along_the_columns_stays():
    def body(b, x):
        return relax.op.nn.conv3d(x, relax.const(weight_of((16, 8, 1, 1, 3))), padding=(0, 0, 1))

    assert operators(Conv2dAsConv3d()(module((1, 8, 1, 1, 12), body))) == ["relax.nn.conv3d"]
