"""KeepPacked: rewritten, declined, and the same numbers."""

import json

import numpy as np
import pytest
import tvm
from tvm import relax

from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.ir.dataflow import bindings
from rt3d_tvm.compile.ir.packed_call import called, packed_kernel
from rt3d_tvm.compile.options import CompileOptions
from rt3d_tvm.compile.passes.channel_moves import ChannelMoves, shuffled_by
from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.keep_packed import CHANGES_ATTRIBUTE, UNPACKED_ATTRIBUTE, KeepPacked
from rt3d_tvm.compile.passes.lift_constants import lift_constants
from rt3d_tvm.compile.pipeline import phases
from rt3d_tvm.compile.targets import make_target
from tests.quantized_models import net, quantized_by_onnxruntime
from tests.relax_modules import conv, draw, module, operators, run, weight_of
from topi_sparse.cpu.max_pool3d import POOL_ATTRIBUTE as CPU_POOL_ATTRIBUTE
from topi_sparse.opencl.concat import CONCAT_ATTRIBUTE
from topi_sparse.opencl.max_pool3d import POOL_ATTRIBUTE

TARGET = make_target("x86-64-avx2")  # channel blocks of 8
CHANNELS = weight_of((16, 8, 3, 3, 3))
BACK = weight_of((8, 16, 1, 3, 3), seed=4)


def both(body, shape=(1, 8, 4, 6, 7)) -> tuple[tvm.IRModule, tvm.IRModule]:
    """The module before and after KeepPacked."""
    before = CompactConv3d(TARGET)(module(shape, body))
    return before, KeepPacked()(before)


def check(body, shape=(1, 8, 4, 6, 7), *, atol=0.0) -> tvm.IRModule:
    """KeepPacked changes no bit of the result: the same sums in the same order.

    atol: for what is divided by a count on plain values and multiplied by its inverse on packed.
    """
    before, after = both(body, shape)
    x = draw(shape)
    np.testing.assert_allclose(run(before, x), run(after, x), rtol=0, atol=atol)
    return after


def between(operator):
    """conv, ``operator``, conv."""

    def body(builder, x):
        y = builder.emit(operator(builder, builder.emit(conv(x, CHANNELS))))
        return conv(y, BACK, padding=(0, 1, 1))

    return body


def sliced(builder, y, ends):
    """Along C, D and H; convolved up to the channels that follow."""
    begin, end, stride = zip(*ends, strict=True)
    part = builder.emit(relax.op.strided_slice(y, [1, 2, 3], begin, end, stride))
    channels = end[0] - begin[0]
    return conv(part, weight_of((16, channels, 1, 1, 1)), padding=0)


def extended(builder, y, channels):
    """What has more channels, convolved to 16 again."""
    return conv(builder.emit(y), weight_of((16, channels, 1, 1, 1)), padding=0)


def mean_of(builder, y, axes=(2, 3, 4)):
    """(B, C, 1, 1, 1), as squeeze-and-excitation multiplies by."""
    return builder.emit(relax.op.mean(y, axis=list(axes), keepdims=True))


def share_of(builder, y):
    return builder.emit(relax.op.sigmoid(y))


def first_channel(builder, y):
    """(B, 1, D, H, W), as attention over positions multiplies by."""
    return builder.emit(conv(y, weight_of((1, 16, 1, 1, 1)), padding=0))


# Results of up to 30, a last bit of which is 2e-6.
COUNTED = ("mean", "avg_pool", "softmax")
POOL = {"pool_size": (1, 2, 2), "strides": (1, 2, 2)}
SAME = {"pool_size": (3, 3, 3), "strides": (1, 1, 1), "padding": (1, 1, 1)}


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("max_pool", lambda b, y: relax.op.nn.max_pool3d(y, **POOL)),
        ("max_pool", lambda b, y: relax.op.nn.max_pool3d(y, **SAME)),
        ("max_pool", lambda b, y: relax.op.nn.max_pool3d(y, **POOL, ceil_mode=True)),
        ("avg_pool", lambda b, y: relax.op.nn.avg_pool3d(y, **POOL)),
        ("relu", lambda b, y: relax.op.nn.relu(b.emit(relax.op.nn.max_pool3d(y, **POOL)))),
        (
            "minimum",
            lambda b, y: relax.op.minimum(
                b.emit(relax.op.nn.max_pool3d(y, **POOL)), relax.const(0.5)
            ),
        ),
        (
            "maximum",
            lambda b, y: relax.op.maximum(
                b.emit(relax.op.nn.max_pool3d(y, **POOL)), relax.const(-0.5)
            ),
        ),
        ("add", lambda b, y: relax.op.add(y, b.emit(relax.op.nn.max_pool3d(y, **SAME)))),
        ("avg_pool", lambda b, y: relax.op.nn.avg_pool3d(y, **SAME, count_include_pad=True)),
        ("avg_pool", lambda b, y: relax.op.nn.avg_pool3d(y, **SAME)),
        ("multiply", lambda b, y: relax.op.multiply(y, relax.const(draw((1, 16, 1, 1, 1))))),
        ("add", lambda b, y: relax.op.add(y, relax.const(draw((1, 1, 1, 1, 7))))),
        ("divide", lambda b, y: relax.op.divide(relax.const(2.0), b.emit(relax.op.exp(y)))),
        ("mean", lambda b, y: relax.op.multiply(mean_of(b, y), y)),
        # From a block's border, and with another step along H.
        ("strided_slice", lambda b, y: sliced(b, y, [(8, 16, 1), (0, 3, 1), (1, 6, 2)])),
        # Across one, which is filled up.
        ("strided_slice", lambda b, y: sliced(b, y, [(3, 14, 1), (0, 4, 1), (0, 6, 1)])),
        ("concat", lambda b, y: relax.op.concat([y, b.emit(relax.op.nn.relu(y)), y], axis=2)),
        ("concat", lambda b, y: relax.op.concat([b.emit(relax.op.nn.relu(y)), y], axis=-1)),
        # Unevenly, by another number than a plane is surrounded by.
        ("pad", lambda b, y: relax.op.nn.pad(y, [0] * 4 + [1, 0, 0, 2, 3, 1], "constant", -0.5)),
        # Channels by whole blocks, and by less.
        ("pad", lambda b, y: extended(b, relax.op.nn.pad(y, [0, 0, 8, 8, *[0] * 6]), 32)),
        ("pad", lambda b, y: extended(b, relax.op.nn.pad(y, [0, 0, 3, 2, *[0] * 6]), 21)),
        ("take", lambda b, y: relax.op.take(y, relax.const(shuffled_by(4, 16)), axis=1)),
        ("multiply", lambda b, y: relax.op.multiply(y, first_channel(b, y))),
        ("mean", lambda b, y: relax.op.multiply(y, mean_of(b, y, [1]))),
        # Of values up to 1, as the others' sums are of up to 30.
        ("mean", lambda b, y: relax.op.subtract(z := share_of(b, y), mean_of(b, z, [1, 3]))),
        ("softmax", lambda b, y: relax.op.nn.softmax(y, axis=1)),
        ("softmax", lambda b, y: relax.op.nn.softmax(y, axis=2)),
        ("softmax", lambda b, y: relax.op.nn.softmax(y, axis=-1)),
    ],
)
def test_an_operator_between_two_convolutions_is_packed(name, operator):
    after = check(between(operator), atol=1e-5 if name in COUNTED else 0)
    left = operators(after)
    assert left[0] == "pack"
    assert left[-1] == "unpack"
    assert not {"pack", "unpack"} & set(left[1:-1])
    assert not [op for op in left if op.startswith("relax.")]
    assert any(op.startswith(name) for op in left)
    assert int(after.attrs[CHANGES_ATTRIBUTE]) == 2


def test_a_mean_is_packed_and_the_single_position_behind_it_is_a_view():
    def mean(builder, y):
        return relax.op.mean(y, axis=[2, 3, 4], keepdims=True)

    kernels = ["pack", "kgs_conv3d", "mean", "kgs_conv3d"]
    assert operators(check(between(mean))) == [*kernels, "relax.reshape"]


@pytest.mark.parametrize("channels", [(16, 8, 5), (5, 11, 13)])
def test_concat_is_packed(channels):
    def body(builder, x):
        parts = [builder.emit(conv(x, weight_of((m, 8, 1, 1, 1)), padding=0)) for m in channels]
        whole = builder.emit(relax.op.concat(parts, axis=1))
        return conv(whole, weight_of((8, 29, 1, 1, 1)), padding=0)

    assert int(check(body).attrs[CHANGES_ATTRIBUTE]) == 2


@pytest.mark.parametrize(
    "operator",
    [
        lambda b, y: relax.op.nn.max_pool3d(y, pool_size=(3, 5, 5), padding=(1, 2, 2)),
        lambda b, y: relax.op.nn.log_softmax(y, axis=1),
    ],
)
def test_what_cannot_be_packed_gets_plain_values(operator):
    """An operator without a packed form stands between an unpack and a pack, with equal results."""
    after = check(between(operator))
    assert int(after.attrs[CHANGES_ATTRIBUTE]) > 2


@pytest.mark.parametrize(
    ("target", "of_work_items"), [("opencl", True), ("adreno", True), ("x86-64-avx2", False)]
)
def test_a_pool_is_that_of_work_items_where_there_are_some(target, of_work_items):
    chosen = make_target(target)
    packs = CompactConv3d(chosen)(
        module((1, 8, 4, 6, 7), between(lambda b, y: relax.op.nn.max_pool3d(y, **SAME)))
    )
    after = KeepPacked(chosen)(packs)
    (pool,) = (name for name in operators(after) if name.startswith("max_pool3d"))
    assert (POOL_ATTRIBUTE in after[pool].attrs) == of_work_items
    assert (CPU_POOL_ATTRIBUTE in after[pool].attrs) != of_work_items
    assert int(after.attrs[CHANGES_ATTRIBUTE]) == 2


@pytest.mark.parametrize(("channels", "of_work_items"), [((16, 8, 5), True), ((5, 8), False)])
def test_a_concat_is_that_of_work_items_where_its_parts_fill_their_blocks(channels, of_work_items):
    def body(builder, x):
        parts = [builder.emit(conv(x, weight_of((m, 8, 1, 1, 1)), padding=0)) for m in channels]
        whole = builder.emit(relax.op.concat(parts, axis=1))
        return conv(whole, weight_of((8, sum(channels), 1, 1, 1)), padding=0)

    target = make_target("opencl")
    after = KeepPacked(target)(CompactConv3d(target)(module((1, 8, 4, 6, 7), body)))
    (concat,) = (name for name in operators(after) if name.startswith("concat"))
    assert (CONCAT_ATTRIBUTE in after[concat].attrs) == of_work_items


def test_a_residual_block_needs_no_layout_change_inside():
    def body(builder, x):
        stem = builder.emit(relax.op.nn.relu(builder.emit(conv(x, CHANNELS))))
        middle = builder.emit(conv(stem, weight_of((16, 16, 1, 3, 3)), padding=(0, 1, 1)))
        last = builder.emit(conv(middle, weight_of((16, 16, 3, 1, 1)), padding=(1, 0, 0)))
        added = builder.emit(relax.op.add(last, stem))
        return relax.op.nn.relu(added)

    kernels = ["kgs_conv3d"] * 3
    assert operators(check(body)) == ["pack", *kernels, "unpack"]


def test_a_packed_value_that_is_also_the_result_is_unpacked_once_for_all():
    def body(builder, x):
        y = builder.emit(conv(x, CHANNELS))
        plain = builder.emit(relax.op.sigmoid(y))
        other = builder.emit(relax.op.tanh(y))
        return relax.op.multiply(plain, other)

    assert operators(check(body)).count("unpack") == 1


@pytest.mark.parametrize(
    ("first", "second", "shape"),
    [
        # kd reaches further than the input is deep, and the few channels change their block.
        ((2, 8, 3, 1, 1), (16, 2, 3, 1, 1), (1, 8, 3, 4, 9)),
        ((8, 8, 3, 3, 3), (8, 8, 3, 3, 3), (1, 8, 1, 5, 5)),
    ],
)
@pytest.mark.parametrize("dilation", [1, 2])
def test_kernels_deeper_than_their_input(first, second, shape, dilation):
    pad = dilation

    def body(builder, x):
        weights = (weight_of(first, density=1.0), weight_of(second, density=1.0, seed=5))
        padding = [(pad, pad * (w.shape[3] // 2), pad * (w.shape[4] // 2)) for w in weights]
        y = builder.emit(conv(x, weights[0], padding=padding[0], dilation=(dilation, dilation, 1)))
        return conv(y, weights[1], padding=padding[1], dilation=(1, dilation, dilation))

    check(body, shape)


def test_splits_and_shuffles_become_slices_and_takes():
    def body(builder, x):
        parts = builder.emit(relax.op.split(x, [5], axis=1))
        whole = relax.op.concat([builder.emit(parts[1]), builder.emit(parts[0])], axis=1)
        wide = builder.emit(relax.op.reshape(builder.emit(whole), (1, 2, 4, 4, 6, 7)))
        moved = builder.emit(relax.op.permute_dims(wide, [0, 2, 1, 3, 4, 5]))
        return relax.op.reshape(moved, (1, 8, 4, 6, 7))

    before = module((1, 8, 4, 6, 7), body)
    after = ChannelMoves()(before)
    moves = ["relax.strided_slice", "relax.strided_slice", "relax.concat", "relax.take"]
    assert operators(after) == moves
    x = draw((1, 8, 4, 6, 7))
    np.testing.assert_array_equal(run(after, x), run(before, x))


def test_what_is_left_unpacked_says_why():
    after = check(between(lambda b, y: relax.op.nn.log_softmax(y, axis=1)))
    (reason,) = json.loads(after.attrs[UNPACKED_ATTRIBUTE])
    assert "relax.nn.log_softmax has no packed form" in reason
    # One clip, which a softmax over clips makes ones of.
    after = check(between(lambda b, y: relax.op.nn.softmax(y, axis=0)))
    (reason,) = json.loads(after.attrs[UNPACKED_ATTRIBUTE])
    assert "along axis 0 of (1, 16, 4, 6, 7), not along C, D, H or W" in reason


def test_constants_become_parameters():
    weights = [draw((16, 8, 1, 1, 1)), draw((8, 16, 1, 1, 1))]

    def body(builder, x):
        return conv(builder.emit(conv(x, weights[0], padding=0)), weights[1], padding=0)

    mod, values = lift_constants(module((1, 8, 2, 2, 2), body))
    assert [len(mod["main"].params), len(values)] == [3, 2]
    for value, weight in zip(values, weights, strict=True):
        np.testing.assert_array_equal(value, weight)
    same = module(
        (1, 8, 2, 2, 2),
        lambda b, x: conv(
            b.emit(conv(x, BACK[:, :8, :, :1, :1], padding=0)), BACK[:, :8, :, :1, :1], padding=0
        ),
    )
    assert len(lift_constants(same)[1]) == 1  # equal ones are stored once
    relax.analysis.well_formed(mod)  # raises for a variable that is used and not bound


def test_few_channels_are_read_in_the_blocks_they_are_stored_in():
    """A layer of two channels alone would pack just these; behind another it takes its blocks."""

    def body(builder, x):
        y = builder.emit(conv(x, weight_of((2, 8, 1, 1, 1), density=1.0), padding=0))
        y = builder.emit(relax.op.sigmoid(builder.emit(relax.op.nn.max_pool3d(y, **SAME))))
        return conv(y, weight_of((8, 2, 1, 1, 1), density=1.0), padding=0)

    assert int(check(body).attrs[CHANGES_ATTRIBUTE]) == 2


def blocks_read(mod: tvm.IRModule) -> list[tuple[str, int]]:
    """The name of each kernel and the channel block of its input, in order."""
    kernels = [
        packed_kernel(called(mod, each.value))
        for each in bindings(mod["main"])
        if called(mod, each.value)
    ]
    return [(name, kernel.x.c_block) for name, kernel in filter(None, kernels)]


@pytest.mark.parametrize(
    ("target", "precision"),
    [
        *((target, "fp32") for target in ("x86-64-avx2", "x86-64-avx512-vnni", "arm64-dotprod")),
        ("arm64-v8.2", "fp16"),
    ],
)
def test_every_kernel_reads_blocks_as_large_as_it_was_made_for(target, precision, tmp_path):
    """Behind a float16 layer, whose blocks are twice as large, a quantised one has its own."""
    path = quantized_by_onnxruntime(tmp_path, net(3), exclude=["stem", "b"])
    lowering = CompileOptions(target=target, precision=precision).resolve()
    mod = import_onnx(path)
    before = None
    for name, phase in phases(lowering):
        if name == "keep_packed":
            before = blocks_read(mod)
        mod = phase(mod)
        if name == "keep_packed":
            break
    assert blocks_read(mod) == before
    assert len({name for name, _ in before}) > 1
