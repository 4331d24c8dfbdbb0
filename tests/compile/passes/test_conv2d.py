"""Conv2dAsConv3d and ClipAsOperators: rewritten, declined with a reason, and the same numbers."""

import numpy as np
import pytest
import tvm
from tvm import relax, topi

from rt3d_tvm.compile.ir.dataflow import bindings
from rt3d_tvm.compile.ir.report import read_report
from rt3d_tvm.compile.passes import clip, conv2d
from rt3d_tvm.compile.passes.clip import ClipAsOperators
from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.conv2d import Conv2dAsConv3d
from rt3d_tvm.compile.passes.keep_packed import CHANGES_ATTRIBUTE, KeepPacked
from rt3d_tvm.compile.targets import make_target
from tests.oracle import conv3d_float64, sum_bound
from tests.relax_modules import draw, module, operators, run, weight_of

SHAPE = (1, 8, 9, 7)
WEIGHT = weight_of((16, 8, 1, 3, 3))[:, :, 0]
BACK = weight_of((8, 16, 1, 1, 1), seed=2)[:, :, 0]


def first(x, **attributes):
    return relax.op.nn.conv2d(x, relax.const(WEIGHT), **{"padding": 1, **attributes})


def expected_conv(x, weight, *, stride=1, pad=1, groups=1, dilation=1):
    """conv2d in float64, and the sum of absolute values."""

    def conv(x, weight):
        return conv3d_float64(
            x[:, :, None],
            weight[:, :, None],
            None,
            stride=(1, stride, stride),
            padding=(0, pad, pad) * 2,
            dilation=(1, dilation, dilation),
            groups=groups,
        )[:, :, 0]

    return conv(x, weight), conv(abs(x), abs(weight))


@pytest.mark.parametrize(
    ("attributes", "geometry"),
    [
        ({}, {}),
        ({"strides": 2}, {"stride": 2}),
        ({"dilation": 2, "padding": (2, 2, 2, 2)}, {"dilation": 2, "pad": 2}),
    ],
)
def test_a_conv2d_is_computed_by_the_same_kernel(attributes, geometry):
    before = module(SHAPE, lambda b, x: first(x, **attributes))
    after = Conv2dAsConv3d()(before)
    assert operators(after) == ["relax.reshape", "relax.nn.conv3d", "relax.reshape"]
    rewritten = CompactConv3d(make_target("host"), winograd=False)(after)
    (entry,) = read_report(rewritten)
    assert entry.kernel == "kgs_conv3d"
    y, size = expected_conv(draw(SHAPE), WEIGHT, **geometry)
    assert (abs(run(rewritten, draw(SHAPE)) - y) <= sum_bound(72, size)).all()


POOL = {"pool_size": (2, 2), "strides": (2, 2)}


@pytest.mark.parametrize(
    "operator",
    [
        lambda b, y: relax.op.nn.relu(y),
        lambda b, y: relax.op.nn.max_pool2d(y, pool_size=(3, 3), strides=(2, 2), padding=(1, 1)),
        lambda b, y: relax.op.nn.max_pool2d(y, **POOL, ceil_mode=True),
        lambda b, y: relax.op.nn.avg_pool2d(y, **POOL),
        lambda b, y: relax.op.add(y, relax.const(draw((16, 1, 1)))),
        lambda b, y: relax.op.clip(y, -0.5, 0.5),
        lambda b, y: relax.op.multiply(y, b.emit(relax.op.sigmoid(y))),
        lambda b, y: relax.op.concat([y, y], axis=-3),
        lambda b, y: relax.op.mean(y, axis=[-1, -2], keepdims=True),
    ],
)
def test_operators_between_convolutions_follow_and_no_layout_changes(operator):
    def body(builder, x):
        y = builder.emit(operator(builder, builder.emit(first(x))))
        weight = np.concatenate([BACK, BACK], 1) if y.ty.shape[1] == 32 else BACK
        return relax.op.nn.conv2d(y, relax.const(weight))

    before = module(SHAPE, body)
    after = Conv2dAsConv3d()(before)
    names = operators(after)
    assert names[0] == names[-1] == "relax.reshape"
    assert not [name for name in names[1:-1] if "2d" in name or "reshape" in name]
    kept = KeepPacked()(CompactConv3d(make_target("x86-64-avx2"))(after))
    assert int(kept.attrs[CHANGES_ATTRIBUTE]) <= 2
    x = draw(SHAPE)
    # Two sums of 72 and 32 terms, around an operator that adds few.
    np.testing.assert_allclose(run(kept, x), run(before, x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_conv1d_and_what_follows_are_computed_by_the_same_kernel(batch):
    """As in a TCN: dilated, cut to what came before, added."""
    weight = weight_of((8, 8, 1, 1, 3))[:, :, 0, 0]
    shape = (batch, 8, 11)

    def body(builder, x):
        y = builder.emit(relax.op.nn.conv1d(x, relax.const(weight), padding=4, dilation=2))
        y = builder.emit(relax.op.strided_slice(y, [2], [0], [11], [1]))
        return relax.op.nn.relu(builder.emit(relax.op.add(y, x)))

    before = module(shape, body)
    mod = CompactConv3d(make_target("host"))(Conv2dAsConv3d()(before))
    assert [entry.kernel for entry in read_report(mod)] == ["kgs_conv3d"]
    wide = {"stride": (1, 1, 1), "padding": (0, 0, 4) * 2, "dilation": (1, 1, 2)}
    x = draw(shape)
    clip, kernel = x[:, :, None, None], weight[:, :, None, None]
    y = conv3d_float64(clip, kernel, None, **wide)[:, :, 0, 0, :11] + x
    size = conv3d_float64(abs(clip), abs(kernel), None, **wide)[:, :, 0, 0, :11] + abs(x)
    assert (abs(run(mod, x) - np.maximum(y, 0)) <= sum_bound(26, size)).all()


def test_pictures_that_were_frames_of_a_clip_are_read_there():
    def body(builder, x):
        frames = builder.emit(relax.op.permute_dims(x, [0, 2, 1, 3, 4]))
        y = builder.emit(first(builder.emit(relax.op.reshape(frames, (3, 8, 9, 7)))))
        y = builder.emit(relax.op.mean(y, axis=[2, 3], keepdims=True))
        return builder.emit(relax.op.nn.conv2d(y, relax.const(BACK[:, :, :1, :1])))

    before = module((1, 8, 3, 9, 7), body)
    after = Conv2dAsConv3d()(before)
    kernels = ["relax.nn.conv3d", "relax.mean", "relax.permute_dims", "relax.nn.conv3d"]
    assert operators(after) == [*kernels, "relax.reshape", "relax.permute_dims"]
    kept = KeepPacked()(CompactConv3d(make_target("host"))(after))
    assert int(kept.attrs[CHANGES_ATTRIBUTE]) == 2
    x = draw((1, 8, 3, 9, 7))
    np.testing.assert_allclose(run(kept, x), run(before, x), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "operator",
    [
        lambda b, y: relax.op.add(y, relax.const(draw((3, 16, 1, 1)))),
        lambda b, y: relax.op.add(y, relax.const(draw((16, 9, 7)))),
        lambda b, y: relax.op.multiply(y, relax.const(draw((9, 7)))),
        lambda b, y: relax.op.mean(y, axis=[0, 3], keepdims=True),
        lambda b, y: relax.op.concat([y, y], axis=0),
        lambda b, y: relax.op.strided_slice(y, [0, 3], [1, 2], [3, 7], [1, 2]),
        lambda b, y: relax.op.image.resize2d(y, (18, 14), layout="NCHW", method="linear"),
        lambda b, y: relax.op.nn.pad(y, [1, 0, 0, 2, 1, 0, 0, 3], "constant", 0.5),
    ],
)
def test_several_pictures_are_frames_of_one_clip(operator):
    before = module((3, *SHAPE[1:]), lambda b, x: operator(b, b.emit(first(x))))
    after = Conv2dAsConv3d()(before)
    (call,) = [b.value for b in bindings(after["main"]) if b.value.op.name == "relax.nn.conv3d"]
    assert [int(n) for n in call.ty.shape] == [1, 16, 3, 9, 7]
    x = draw((3, *SHAPE[1:]))
    np.testing.assert_allclose(run(after, x), run(before, x), rtol=0, atol=1e-4)


def test_what_has_no_form_on_clips_gets_its_picture():
    def body(builder, x):
        y = builder.emit(relax.op.nn.log_softmax(builder.emit(first(x)), axis=1))
        z = builder.emit(relax.op.mean(y, axis=[2, 3]))
        return relax.op.reshape(z, (4, 4))

    before = module(SHAPE, body)
    after = Conv2dAsConv3d()(before)
    assert "relax.nn.conv3d" in operators(after)
    np.testing.assert_allclose(run(after, draw(SHAPE)), run(before, draw(SHAPE)), atol=1e-6)


def test_declined_with_a_reason():
    half = relax.const(draw((3, 3, 8, 8)))

    def reason(body, shape=SHAPE):
        mod = module(shape, body)
        call = bindings(mod["main"])[-1].value
        assert operators(Conv2dAsConv3d()(mod)) == operators(mod)
        return conv2d.why_not(call)

    weight = relax.const(WEIGHT)
    cases = [
        (lambda b, x: relax.op.nn.conv2d(x, b.emit(relax.op.nn.relu(weight))), "not a constant"),
        (lambda b, x: relax.op.nn.relu(x), None),  # nothing there that came from a conv2d
        (lambda b, x: relax.op.nn.log_softmax(x), "relax.nn.log_softmax has none"),
    ]
    for body, said in cases:
        assert reason(body) == said or said in reason(body)
    picture = (1, 9, 7, 8)
    said = reason(
        lambda b, x: relax.op.nn.conv2d(x, half, data_layout="NHWC", kernel_layout="HWIO"), picture
    )
    assert "NHWC" in said
    batch = tvm.tirx.Var("batch", "int64")
    assert "not static" in reason(lambda b, x: first(x), (batch, *SHAPE[1:]))


@pytest.mark.parametrize(("low", "operator"), [(0.0, "relax.nn.relu"), (-0.5, "relax.maximum")])
def test_the_importers_loop_nests_become_operators(low, operator):
    def body(builder, x):
        y = builder.emit_te(topi.maximum, x, relax.const(low))
        return builder.emit_te(topi.minimum, y, relax.const(0.5))

    before = module(SHAPE, body)
    after = ClipAsOperators()(before)
    assert operators(after) == [operator, "relax.minimum"]
    x = draw(SHAPE)
    np.testing.assert_array_equal(run(after, x), x.clip(low, 0.5))


def test_other_loop_nests_are_left_alone():
    def body(builder, x):
        return builder.emit_te(topi.subtract, x, relax.const(2.0))

    before = module(SHAPE, body)
    assert operators(ClipAsOperators()(before)) == ["subtract"]
    (binding,) = [b for b in bindings(before["main"]) if isinstance(b.value, relax.Call)][:1]
    assert "something else" in clip.why_not(before, binding.value)
