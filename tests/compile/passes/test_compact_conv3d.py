"""KGSConv3d: rewritten, declined with a reason, and the same numbers."""

import numpy as np
import pytest
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import bindings
from rt3d_tvm.compile.ir.report import read_report
from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.targets import make_target
from tests.oracle import conv3d_float64, sum_bound
from tests.random_convolutions import masked
from tests.relax_modules import (
    GEOMETRY,
    SHAPE,
    conv,
    draw,
    module,
    operators,
    run,
    weight_of,
)
from topi_sparse.kernel_group import KernelGroup


def test_bias_residual_and_relu_become_one_kernel_with_the_right_numbers():
    weights = [weight_of((8, 8, 3, 3, 3), seed=seed) for seed in (0, 1)]
    bias = draw((1, 8, 1, 1, 1))

    def body(builder, x):
        first = builder.emit(conv(x, weights[0]))
        second = builder.emit(conv(first, weights[1]))
        biased = builder.emit(relax.op.add(relax.const(bias), second))
        added = builder.emit(relax.op.add(biased, first))
        return relax.op.nn.relu(added)

    mod = CompactConv3d(make_target("host"))(module(SHAPE, body))
    kernel = ["pack", "kgs_conv3d", "unpack"]
    assert operators(mod) == [*kernel, "pack", *kernel]
    x = draw()
    first = conv3d_float64(x, weights[0], None, **GEOMETRY)
    second = conv3d_float64(first, weights[1], None, **GEOMETRY) + bias + first
    # Two sums, one behind the other: the first one's error passes through the second.
    first_size = conv3d_float64(abs(x), abs(weights[0]), None, **GEOMETRY)
    size = conv3d_float64(first_size, abs(weights[1]), None, **GEOMETRY) + abs(bias) + first_size
    bound = sum_bound(2 * (weights[0][0].size + 2), size)
    assert (abs(run(mod, x) - np.maximum(second, 0)) <= bound).all()


def test_of_two_convolutions_that_are_added_one_takes_the_addition():
    weight = weight_of((8, 8, 1, 1, 1))

    def body(builder, x):
        left, right = (builder.emit(conv(x, weight * sign, padding=0)) for sign in (1, -1))
        return relax.op.add(left, right)

    mod = CompactConv3d(make_target("host"))(module(SHAPE, body))
    assert operators(mod).count("kgs_conv3d") == 2
    assert "relax.add" not in operators(mod)
    assert not run(mod, draw()).any()


def test_a_value_that_steps_alone_read_twice_is_fused():
    weight = weight_of((8, 8, 1, 1, 1))

    def body(builder, x):
        y = builder.emit(conv(x, weight, padding=0))
        return relax.op.add(builder.emit(relax.op.nn.relu(y)), y)

    mod = CompactConv3d(make_target("host"))(module(SHAPE, body))
    assert operators(mod) == ["pack", "kgs_conv3d", "unpack"]
    y = conv3d_float64(draw(), weight, None, **{**GEOMETRY, "padding": (0,) * 6})
    size = conv3d_float64(abs(draw()), abs(weight), None, **{**GEOMETRY, "padding": (0,) * 6})
    assert (abs(run(mod, draw()) - (y + np.maximum(y, 0))) <= sum_bound(10, 2 * size)).all()


@pytest.mark.parametrize(
    ("attributes", "weight"),
    [
        ({"strides": (2, 1, 2)}, weight_of()),
        ({"dilation": (1, 2, 1), "padding": (0, 2, 1, 1, 2, 0)}, weight_of()),
        ({"groups": 2}, weight_of((24, 4, 3, 3, 3))),
        ({"padding": (0, 1, 1)}, weight_of((5, 8, 1, 3, 3))),
        ({"padding": (1, 0, 0)}, weight_of((5, 8, 3, 1, 1), density=1.0)),
        ({"padding": 0}, weight_of((33, 8, 1, 1, 1), density=0.0)),
        # Windows that lie in the padding whole, before the first plane and behind the last.
        ({"padding": (2, 0, 0, 3, 0, 0)}, weight_of((9, 8, 1, 1, 1), density=1.0)),
        ({"padding": (5, 4, 3, 4, 5, 6), "strides": (2, 3, 1)}, weight_of()),
    ],
)
def test_geometry(attributes, weight):
    mod = module(SHAPE, lambda builder, x: conv(x, weight, **{"padding": 1, **attributes}))
    call = bindings(mod["main"])[0].value.attrs
    rewritten = CompactConv3d(make_target("host"))(mod)
    assert operators(rewritten) == ["pack", "kgs_conv3d", "unpack"]
    geometry = {
        "stride": tuple(map(int, call.strides)),
        "padding": tuple(map(int, call.padding)),
        "dilation": tuple(map(int, call.dilation)),
        "groups": int(call.groups),
    }
    x = draw()
    expected = conv3d_float64(x, weight, None, **geometry)
    size = conv3d_float64(abs(x), abs(weight), None, **geometry)
    assert (abs(run(rewritten, x) - expected) <= sum_bound(weight[0].size, size)).all()


def test_declined_with_a_reason():
    weight = weight_of()
    twice = draw((16, 1, 3, 3, 3))
    cases = [
        (
            lambda b, x: relax.op.nn.conv3d(x, b.emit(relax.op.nn.relu(relax.const(weight)))),
            "not a constant",
        ),
        (lambda b, x: conv(x, twice, groups=8), "with 8 groups the smallest kernel group"),
        (
            lambda b, x: conv(x, draw((4, 3, 3, 3, 3)), data_layout="NDHWC", out_layout="NDHWC"),
            "NDHWC",
        ),
    ]
    for body, reason in cases:
        shape = (1, 4, 6, 7, 3) if "NDHWC" in reason else SHAPE
        mod = CompactConv3d(make_target("host"))(module(shape, body))
        assert "kgs_conv3d" not in operators(mod)
        (entry,) = read_report(mod)
        assert reason in entry.reason
        assert entry.kernel is None


def test_a_declined_dtype_and_a_dynamic_shape():
    half = module(SHAPE, lambda b, x: conv(x, weight_of().astype("float16")), dtype="float16")
    (entry,) = read_report(CompactConv3d(make_target("host"))(half))
    assert "not float32" in entry.reason
    batch = tvm.tirx.Var("batch", "int64")
    dynamic = module((batch, *SHAPE[1:]), lambda b, x: conv(x, weight_of()))
    (entry,) = read_report(CompactConv3d(make_target("host"))(dynamic))
    assert "not static" in entry.reason


def test_a_conv2d_is_listed_with_the_reason():
    def body(builder, x):
        flat = builder.emit(relax.op.reshape(x, (1, 8, 24, 7)))
        return relax.op.nn.conv2d(flat, relax.const(draw((4, 8, 3, 3))))

    (entry,) = read_report(CompactConv3d(make_target("host"))(module(SHAPE, body)))
    assert entry.reason == "it is a conv2d; a conv3d is expected"


@pytest.mark.parametrize("filters", [8, 16])
def test_grouped_by_channel_it_computes_the_same(filters: int):
    """With one filter a channel by a kernel of its own; with two by TVM's loops."""
    weight = draw((filters, 1, 3, 3, 3))

    def body(builder, x):
        y = builder.emit(relax.op.nn.relu(builder.emit(conv(x, weight, groups=8))))
        return relax.op.minimum(y, relax.const(0.5))

    mod = CompactConv3d(make_target("host"))(module(SHAPE, body))
    (entry,) = read_report(mod)
    assert entry.kernel == ("depthwise_conv3d" if filters == 8 else None)
    assert ("relax.minimum" in operators(mod)) == (entry.kernel is None)
    x = draw()
    expected = conv3d_float64(x, weight, None, **GEOMETRY, groups=8).clip(0, 0.5)
    size = conv3d_float64(abs(x), abs(weight), None, **GEOMETRY, groups=8)
    assert (abs(run(mod, x) - expected) <= sum_bound(27, size)).all()


def test_a_relu_with_a_ceiling_becomes_part_of_the_kernel():
    weight = weight_of((8, 8, 1, 3, 3))

    def body(builder, x):
        y = builder.emit(relax.op.nn.relu(builder.emit(conv(x, weight, padding=(0, 1, 1)))))
        return relax.op.minimum(y, relax.const(0.5))

    mod = CompactConv3d(make_target("host"))(module(SHAPE, body))
    assert operators(mod) == ["pack", "kgs_conv3d", "unpack"]
    geometry = {**GEOMETRY, "padding": (0, 1, 1) * 2}
    expected = conv3d_float64(draw(), weight, None, **geometry).clip(0, 0.5)
    size = conv3d_float64(abs(draw()), abs(weight), None, **geometry)
    assert (abs(run(mod, draw()) - expected) <= sum_bound(72, size)).all()


@pytest.mark.parametrize(
    ("target", "pruned_in", "found"),
    [
        ("x86-64-avx512", "32x4", "32x4"),
        ("x86-64-avx512", "16x4", "16x4"),
        ("x86-64-avx2", "16x4", "16x4"),
        ("x86-64-avx2", "8x4", "8x4"),
        ("cortex-a77", "8x4", "8x4"),
        ("cortex-a77", "4x4", "4x4"),
        ("x86-64-avx512", "8x4", "8x4"),
        ("x86-64-avx512", "4x4", "4x4"),
    ],
)
def test_the_kernel_group_is_found_in_the_zeros(target: str, pruned_in: str, found: str):
    group = KernelGroup.parse(pruned_in)
    weight = masked((64, 32, 3, 3, 3), scheme="kgs", density=0.3, group=group, seed=3)
    shape = (1, 32, 4, 28, 28)
    mod = CompactConv3d(make_target(target))(module(shape, lambda b, x: conv(x, weight)))
    (entry,) = read_report(mod)
    assert entry.group == found
    assert entry.kept_macs == np.count_nonzero(weight) * 4 * 28 * 28
    if KernelGroup.parse(found).g_m <= group.g_m:
        assert entry.issued_macs == entry.kept_macs
    else:
        assert entry.kept_macs < entry.issued_macs < 2 * entry.kept_macs


def test_a_given_kernel_group_is_used():
    mod = module(SHAPE, lambda b, x: conv(x, weight_of()))
    (entry,) = read_report(CompactConv3d(make_target("host"), KernelGroup(g_m=4, g_n=2))(mod))
    assert entry.group == "4x2"
    with pytest.raises(ValueError, match=r"kernel group 5x4: there are kernels for"):
        CompactConv3d(make_target("host"), KernelGroup(g_m=5, g_n=4))


def test_it_stands_alone_beside_the_passes_of_tvm():
    """Somebody else's pipeline with nothing but this pass added."""
    weight = weight_of()
    mod = module(SHAPE, lambda b, x: conv(x, weight))
    target = make_target("host")
    with target:
        mod = tvm.transform.Sequential(
            [
                relax.transform.FoldConstant(),
                CompactConv3d(target),
                relax.transform.LegalizeOps(),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FuseOps(),
                relax.transform.FuseTIR(),
            ]
        )(mod)
    vm = relax.VirtualMachine(tvm.compile(mod, target=target), tvm.cpu())
    x = draw()
    result = vm["main"](tvm.runtime.tensor(x)).numpy()
    expected = conv3d_float64(x, weight, None, **GEOMETRY)
    size = conv3d_float64(abs(x), abs(weight), None, **GEOMETRY)
    assert (abs(result - expected) <= sum_bound(weight[0].size, size)).all()
