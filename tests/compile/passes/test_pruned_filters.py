"""PrunedFilters: sorted where it saves work, left alone elsewhere, and the same numbers."""

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import bindings, constant, is_op
from rt3d_tvm.compile.ir.report import read_report
from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.pruned_filters import PrunedFilters
from rt3d_tvm.compile.targets import make_target
from tests.oracle import UNIT_ROUNDOFF, conv3d_float64, sum_bound
from tests.random_convolutions import masked
from tests.relax_modules import GEOMETRY, conv, draw, module, run
from topi_sparse.kernel_group import KernelGroup

SHAPE = (1, 8, 3, 6, 7)
KEPT = np.arange(32) % 4 == 0  # 8 of 32 filters, none of them neighbours


def weights(bias: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two convolutions, the first of them filter-pruned, and a bias of one sign between them."""
    first, second = draw((32, 8, 3, 3, 3), seed=2), draw((16, 32, 3, 3, 3), seed=3)
    first[~KEPT] = 0
    return first, bias * (1 + abs(draw((1, 32, 1, 1, 1), seed=4))), second


def network(first, bias, second, between=lambda builder, y: y):
    def body(builder, x):
        y = builder.emit(relax.op.add(builder.emit(conv(x, first)), relax.const(bias)))
        y = between(builder, builder.emit(relax.op.nn.relu(y)))
        return builder.emit(conv(y, second))

    return module(SHAPE, body)


def stored(mod) -> list[np.ndarray]:
    """The weights of the convolutions, in order."""
    return [
        constant(binding.value.args[1])
        for binding in bindings(mod["main"])
        if is_op(binding.value, "relax.nn.conv3d")
    ]


@pytest.mark.parametrize("bias", [-1.0, 0.0, 1.0])
def test_zero_filters_cost_nothing_and_their_readers_skip_what_is_zero(bias):
    first, added, second = weights(bias)
    before = network(first, added.astype("float32"), second)
    after = PrunedFilters()(before)
    new_first, new_second = stored(after)
    assert new_first[:8].any(axis=(1, 2, 3, 4)).all()
    assert not new_first[8:].any()
    # A positive bias passes the ReLU: its channel is not zero, and has to be read.
    assert new_second[:, 8:].any() == (bias > 0)
    issued = [layer.issued_macs for layer in read_report(CompactConv3d(make_target("host"))(after))]
    direct = [
        layer.issued_macs for layer in read_report(CompactConv3d(make_target("host"))(before))
    ]
    assert issued[0] * 4 == direct[0]
    assert issued[1] * 4 == direct[1] or bias > 0
    x = draw(SHAPE)
    hidden = conv3d_float64(x, first, added.reshape(-1), **GEOMETRY).clip(0)
    size = conv3d_float64(abs(x), abs(first), abs(added.reshape(-1)), **GEOMETRY)
    expected = conv3d_float64(hidden, second, None, **GEOMETRY)
    size = conv3d_float64(size, abs(second), None, **GEOMETRY)
    bound = sum_bound(first[0].size + second[0].size + 2, size)
    y = run(CompactConv3d(make_target("host"), winograd=False)(after), x)
    assert np.all(abs(y - expected) <= bound)


def test_channels_are_followed_through_pools():
    first, bias, second = weights(0.0)

    def pool(builder, y):
        return builder.emit(relax.op.nn.max_pool3d(y, (1, 2, 2), (1, 2, 2)))

    new_first, new_second = stored(PrunedFilters()(network(first, bias, second, pool)))
    assert not new_first[8:].any()
    assert not new_second[:, 8:].any()


@pytest.mark.parametrize("case", ["residual", "result", "kgs", "dense"])
def test_left_alone(case):
    first, _, second = weights(0.0)
    if case == "kgs":  # sorting would tear its groups apart
        group = KernelGroup(g_m=8, g_n=4)
        first = masked((32, 8, 3, 3, 3), scheme="kgs", density=0.3, group=group, seed=0)
        first[3] = 0
    elif case == "dense":
        first = draw((32, 8, 3, 3, 3), seed=2)

    def body(builder, x):
        y = builder.emit(relax.op.nn.relu(builder.emit(conv(x, first))))
        z = builder.emit(conv(y, second if case != "residual" else draw((32, 32, 3, 3, 3))))
        if case == "residual":
            return builder.emit(relax.op.add(y, z))
        return builder.emit(relax.op.mean(y)) if case == "result" else z

    after = stored(PrunedFilters()(module(SHAPE, body)))
    assert np.array_equal(after[0], first)


def different_paths(case):
    """Two readers of one filter-pruned convolution that see other values of its zero filters."""
    first, bias, second = weights(-1.0)
    bias = bias.astype("float32")

    def body(builder, x):
        y = builder.emit(conv(x, first))
        biased = builder.emit(relax.op.add(y, relax.const(bias)))
        if case == "with and without ReLU":
            paths = builder.emit(relax.op.nn.relu(biased)), biased
        elif case == "two biases":
            paths = biased, builder.emit(relax.op.add(y, relax.const(-bias)))
        else:  # the average of a padded window is another one at the border
            pooled = relax.op.nn.avg_pool3d(
                biased, (3, 3, 3), (1, 1, 1), (1, 1, 1), count_include_pad=True
            )
            less = builder.emit(relax.op.add(builder.emit(pooled), relax.const(-bias)))
            paths = (builder.emit(relax.op.nn.relu(less)),) * 2
        results = [builder.emit(conv(path, second)) for path in paths]
        return builder.emit(relax.op.add(*results))

    return module(SHAPE, body)


@pytest.mark.parametrize("case", ["with and without ReLU", "two biases", "padded average"])
def test_each_reader_sees_its_own_values(case):
    before, x = different_paths(case), draw(SHAPE)
    after = PrunedFilters()(before)
    expected = run(before, x)
    # Both sum the same terms, in another order.
    terms = 8 * 27 + 2 * 32 * 27 + 3
    bound = 4 * terms * UNIT_ROUNDOFF * abs(expected).max()
    assert abs(run(after, x) - expected).max() <= bound
