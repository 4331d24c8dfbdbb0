"""Conv2dAsConv3d: what changes places or becomes one between convolutions stays in one clip."""

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.passes.channel_moves import ChannelMoves
from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.conv2d import Conv2dAsConv3d
from rt3d_tvm.compile.passes.keep_packed import CHANGES_ATTRIBUTE, KeepPacked
from rt3d_tvm.compile.targets import make_target
from tests.relax_modules import draw, module, operators, run, weight_of

TARGET = make_target("x86-64-avx2")  # channel blocks of 8
SHAPE = (4, 8, 9, 7)  # four frames
FIRST = weight_of((16, 8, 1, 3, 3))[:, :, 0]
LAST = weight_of((8, 16, 1, 1, 1), seed=2)[:, :, 0]
LINES = weight_of((16, 16, 1, 1, 3), seed=3)[:, :, 0, 0]


def op(builder, name, *args, **attributes):
    return builder.emit(getattr(relax.op, name)(*args, **attributes))


def clip(b, y):
    """Pictures, frames first: (1, 4, 16, 9, 7)."""
    return op(b, "reshape", y, (1, 4, *[int(n) for n in y.ty.shape][1:]))


def pictures(b, y):
    return op(b, "reshape", y, (4, *[int(n) for n in y.ty.shape][2:]))


def zeros(*shape):
    return relax.const(np.zeros(shape, "float32"))


def shifted(b, y):
    """TSM's: some channels from the next frame, some from the one before, as slices and zeros."""
    y = clip(b, y)
    parts = [op(b, "strided_slice", y, [2], [at], [end]) for at, end in ((0, 2), (2, 4), (4, 16))]
    back = op(b, "strided_slice", parts[0], [1], [1], [4])
    back = op(b, "concat", [back, zeros(1, 1, 2, 9, 7)], axis=1)
    forth = op(b, "strided_slice", parts[1], [1], [0], [3])
    forth = op(b, "concat", [zeros(1, 1, 2, 9, 7), forth], axis=1)
    return pictures(b, op(b, "concat", [back, forth, parts[2]], axis=2))


def overwritten(b, y):
    """As an assignment to a slice is written out: along the first axis of what was transposed."""
    y = clip(b, y)
    moved = op(b, "permute_dims", y, [2, 1, 0, 3, 4])
    kept = op(b, "strided_slice", moved, [0], [5], [16])
    new = op(b, "negative", op(b, "strided_slice", moved, [0], [0], [5]))
    joined = op(b, "concat", [new, kept], axis=0)
    return pictures(b, op(b, "permute_dims", joined, [2, 1, 0, 3, 4]))


def in_time(b, y):
    """TEA's: each place a line over the frames, through a conv1d."""
    lines = op(b, "permute_dims", clip(b, y), [0, 3, 4, 2, 1])
    lines = op(b, "reshape", lines, (63, 16, 4))
    lines = b.emit(relax.op.nn.conv1d(lines, relax.const(LINES), padding=1))
    lines = op(b, "reshape", lines, (1, 9, 7, 16, 4))
    lines = op(b, "permute_dims", lines, [0, 4, 3, 1, 2])
    return op(b, "reshape", lines, (4, 16, 9, 7))


def upright(b, y):
    """Rows as columns, through a conv2d of another height than width, and back."""
    turned = op(b, "permute_dims", y, [0, 1, 3, 2])
    weight = weight_of((16, 16, 1, 3, 1), seed=5)[:, :, 0]
    turned = b.emit(relax.op.nn.conv2d(turned, relax.const(weight), padding=(1, 0)))
    pooled = relax.op.nn.max_pool2d(turned, pool_size=(3, 1), strides=(2, 1), padding=(1, 0, 1, 0))
    return op(b, "permute_dims", b.emit(pooled), [0, 1, 3, 2])


def changes(b, y):
    """TEA's excitation: from frame to frame, padded, meaned over the plane."""
    y5 = clip(b, y)
    after = op(b, "strided_slice", y5, [1], [1], [4])
    moved = op(b, "subtract", after, op(b, "strided_slice", y5, [1], [0], [3]))
    moved = b.emit(relax.op.nn.pad(moved, [0, 0, 0, 1, *[0] * 6], "constant", 0.0))
    share = op(b, "mean", pictures(b, moved), axis=[2, 3], keepdims=True)
    return op(b, "multiply", y, op(b, "sigmoid", share))


def channels_last(b, y):
    """A scale and a shift of channels that stand last."""
    last = op(b, "permute_dims", y, [0, 2, 3, 1])
    last = op(
        b, "add", op(b, "multiply", last, relax.const(draw((16,)))), relax.const(draw((16,), 2))
    )
    return op(b, "permute_dims", last, [0, 3, 1, 2])


def split(b, y):
    parts = op(b, "split", y, [4], axis=1)
    first, second = (b.emit(parts[n]) for n in (0, 1))
    return op(b, "concat", [second, first], axis=1)


@pytest.mark.parametrize(
    "between", [shifted, overwritten, in_time, upright, changes, channels_last, split]
)
def test_what_lies_between_stays_packed_and_computes_the_same(between):
    def body(b, x):
        y = b.emit(relax.op.nn.conv2d(x, relax.const(FIRST), padding=1))
        return relax.op.nn.conv2d(between(b, y), relax.const(LAST))

    before = module(SHAPE, body)
    after = Conv2dAsConv3d()(ChannelMoves()(before))
    names = operators(after)
    inner = names[names.index("relax.nn.conv3d") : -2]
    assert not {"relax.permute_dims", "relax.reshape", "relax.split"} & set(inner)
    kept = KeepPacked()(CompactConv3d(TARGET)(after))
    assert int(kept.attrs[CHANGES_ATTRIBUTE]) == 2
    # Sums of 72, 48 and 16 terms of about 1.
    x = draw(SHAPE)
    np.testing.assert_allclose(run(kept, x), run(before, x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, -1.5])
@pytest.mark.parametrize("ends", [(True, False), (False, True), (True, True)])
def test_numbers_at_the_ends_of_a_concatenation_are_a_pad(value, ends):
    numbers = relax.const(np.full((1, 8, 2, 3, 3), value, "float32"))

    def body(b, x):
        y = b.emit(relax.op.nn.conv3d(x, relax.const(weight_of((8, 8, 1, 1, 1)))))
        parts = [numbers] * ends[0] + [y, y] + [numbers] * ends[1]
        return relax.op.concat(parts, axis=2)

    before = module((1, 8, 2, 3, 3), body)
    after = Conv2dAsConv3d()(before)
    assert operators(after)[1:] == ["relax.concat", "relax.nn.pad"]
    x = draw((1, 8, 2, 3, 3))
    np.testing.assert_allclose(run(after, x), run(before, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "parts",
    [
        (draw((2, 16, 9, 7)), draw((1, 16, 9, 7))),
        (np.zeros((2, 16, 9, 7), "float32"), np.ones((1, 16, 9, 7), "float32")),
    ],
)
def test_other_constants_in_a_concatenation_stay(parts):
    """Of no one number, or of two."""

    def body(b, x):
        y = b.emit(relax.op.nn.conv2d(x, relax.const(FIRST), padding=1))
        return relax.op.concat([relax.const(parts[0]), y, relax.const(parts[1])], axis=0)

    before = module(SHAPE, body)
    after = Conv2dAsConv3d()(before)
    assert "relax.concat" in operators(after) and "relax.nn.pad" not in operators(after)
    x = draw(SHAPE)
    np.testing.assert_allclose(run(after, x), run(before, x), rtol=0, atol=1e-5)


def grouped(b, y):
    """Which splits the channels."""
    groups = op(b, "reshape", y, (4, 4, 4, 9, 7))
    return op(b, "reshape", op(b, "mean", groups, axis=[2], keepdims=True), (4, 4, 9, 7))


def frames_as_channels(b, y):
    moved = op(b, "permute_dims", y, [1, 0, 2, 3])
    return b.emit(relax.op.nn.conv2d(moved, relax.const(draw((5, 4, 1, 1)))))


def beside_the_input(b, y):
    """Transposed, and added to what lies in no clip: that stays as it is."""
    last = op(b, "permute_dims", y, [0, 2, 3, 1])
    other = op(b, "matmul", op(b, "reshape", last, (4, 63, 16)), relax.const(draw((16, 16))))
    return op(b, "add", last, op(b, "reshape", other, (4, 9, 7, 16)))


@pytest.mark.parametrize("body", [grouped, frames_as_channels, beside_the_input])
def test_what_has_no_place_in_the_clip_gets_its_values(body):
    def whole(b, x):
        return body(b, b.emit(relax.op.nn.conv2d(x, relax.const(FIRST), padding=1)))

    before = module(SHAPE, whole)
    after = Conv2dAsConv3d()(before)
    assert "relax.nn.conv3d" in operators(after)
    assert "relax.permute_dims" in operators(after)
    x = draw(SHAPE)
    np.testing.assert_allclose(run(after, x), run(before, x), rtol=0, atol=1e-4)
