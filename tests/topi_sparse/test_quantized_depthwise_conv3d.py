"""quantized_depthwise_conv3d against sums of int64 and the float32 steps behind them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt3d_tvm.compile.targets import make_target
from tests.quantized_kernels import TARGETS, compare, exact_sums, expected, run
from topi_sparse.cpu.depthwise_conv3d import default_width
from topi_sparse.cpu.dot_unit import dot_unit
from topi_sparse.cpu.quantized_depthwise_conv3d import QuantizedDepthwiseConv3d
from topi_sparse.cpu.quantized_sums import QuantizedAdd
from topi_sparse.layout import PackedLayout


def check(
    target_name, *, weight, data, zero, y_zero, residual=False, real=False, x=None, **options
):
    """Compile and run one kernel and compare it; zero points count from the type's smallest."""
    target = make_target(target_name)
    unit, rng = dot_unit(target), np.random.default_rng(0)
    limits, channels = np.iinfo(unit.stored), weight.shape[0]
    zero, y_zero = zero + int(limits.min), y_zero + int(limits.min)
    y = PackedLayout(c_block=unit.block, fill=0 if real else y_zero, halo_w=1)
    residual = residual and not real
    conv = QuantizedDepthwiseConv3d(
        data=data,
        filters=channels,
        kernel=weight.shape[2:],
        width=default_width(out_width=9, kernel_w=weight.shape[4], unit=unit),
        x=PackedLayout(c_block=unit.block, fill=zero),
        y=y,
        instruction=unit.instruction,
        dtype=unit.stored,
        result="float32" if real else unit.stored,
        low=int(limits.min) - y_zero,
        high=int(limits.max) - y_zero,
        residual=y if residual else None,
        added=QuantizedAdd(
            low=-90, high=100, step=0.31, residual_step=0.17, residual_zero=y_zero, per_step=2.9
        )
        if residual
        else None,
        **options,
    )
    conv = replace(conv, x=conv.needed_halo())
    if x is None:
        x = rng.integers(limits.min, limits.max + 1, data)
    x = np.broadcast_to(x, data).astype(unit.stored)
    bias = rng.integers(-1000, 1000, channels).astype("int32")
    sums = exact_sums(conv, x, weight, bias, groups=channels)
    scale = (rng.random(channels) * 200 / max(abs(sums).max(), 1)).astype("float32")
    other = rng.integers(limits.min, limits.max + 1, conv.out).astype(unit.stored)
    total, planes = conv.bias_and_planes(weight, bias)
    padded = np.zeros(conv.stored_filters, "float32")
    padded[:channels] = scale
    args = [conv.x.packed(x), conv.packed_windows(weight), total, padded]
    args += [] if planes is None else [planes]
    args += [conv.residual.packed(other)] if residual else []
    result = run(conv, [*args, np.zeros(conv.y.shape(conv.out), conv.result)], target)
    compare(conv, conv.y.unpacked(result, conv.out), expected(conv, sums, scale, other))
    assert (result[:, :, :, :, [0, -1]] == conv.y.fill).all()
    assert QuantizedDepthwiseConv3d.from_json(conv.to_json()) == conv


def weights(channels, *kernel):
    return np.random.default_rng(1).integers(-128, 128, (channels, 1, *kernel)).astype("int8")


WINDOWS = [(1, 3, 3), (3, 3, 3), (1, 5, 5), (3, 1, 1), (1, 1, 1), (2, 2, 2), (1, 1, 7)]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("target", TARGETS)
def test_any_depthwise_convolution_is_exact(target, data):
    draw = data.draw
    kernel, channels = draw(st.sampled_from(WINDOWS)), draw(st.sampled_from([3, 45, 230, 1, 16]))
    dilation = tuple(draw(st.integers(1, 2)) for _ in kernel)
    padding = tuple(draw(st.integers(0, min(k, 3) + 1)) for k in kernel * 2)
    extents = [
        max(draw(st.integers(1, 9)), (k - 1) * step + 1 - before - after, 1)
        for k, step, before, after in zip(kernel, dilation, padding[:3], padding[3:], strict=True)
    ]
    check(
        target,
        weight=weights(channels, *kernel),
        data=(draw(st.integers(1, 2)), channels, *extents),
        zero=draw(st.sampled_from([0, 1, 77, 128, 255])),
        y_zero=draw(st.sampled_from([0, 3, 128, 255])),
        stride=tuple(draw(st.integers(1, 3)) for _ in kernel),
        padding=padding,
        dilation=dilation,
        residual=draw(st.booleans()),
        real=draw(st.booleans()),
        relu=draw(st.booleans()),
        ceiling=draw(st.sampled_from([None, 3.0])),
    )


PLAIN = {"stride": (1, 1, 1), "padding": (1,) * 6, "dilation": (1, 1, 1)}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sign", [127, -128])
def test_the_largest_products_do_not_saturate(target, sign):
    """Two of 255 * 127 are above int16, in which some instructions would keep their sum."""
    weight = np.full((17, 1, 3, 3, 3), sign, "int8")
    largest = np.iinfo(dot_unit(make_target(target)).stored).max
    check(target, weight=weight, data=(1, 17, 3, 5, 5), zero=0, y_zero=9, x=largest, **PLAIN)


def test_channels_that_fill_no_block():
    check("host", weight=weights(921, 1, 3, 3), data=(1, 921, 2, 6, 7), zero=5, y_zero=0, **PLAIN)


def row_of_sdot(*, channels: int, window: int) -> QuantizedDepthwiseConv3d:
    """Windows along W alone, four neighbours to an instruction."""
    unit = dot_unit(make_target("cortex-a77"))
    return QuantizedDepthwiseConv3d(
        data=(1, channels, 1, 4, 6),
        filters=channels,
        kernel=(1, 1, window),
        width=4,
        x=PackedLayout(c_block=4),
        y=PackedLayout(c_block=4),
        instruction=unit.instruction,
        dtype=unit.stored,
        result=unit.stored,
        stride=(1, 1, 1),
        padding=(0,) * 6,
        dilation=(1, 1, 1),
    )


def test_weights_of_a_dot_product_are_neighbours_along_w():
    conv = row_of_sdot(channels=5, window=5)
    weight = np.arange(25, dtype="int8").reshape(5, 1, 1, 1, 5)
    stored = conv.packed_windows(weight).reshape(2, 2, 4, 4)  # block, group, channel, tap
    assert stored[0, :, 1].ravel().tolist() == [5, 6, 7, 8, 9, 0, 0, 0]
    assert stored[1, :, 0].ravel().tolist() == [20, 21, 22, 23, 24, 0, 0, 0]
    assert not stored[1, :, 1:].any()


def test_no_read_is_behind_the_input():
    """A load of four columns begins no later than four before the end of a row."""
    conv = row_of_sdot(channels=4, window=3)
    assert conv.needed_halo().halo_w == 1
    assert replace(conv, dilation=(1, 1, 2)).needed_halo().halo_w == 0
    assert replace(conv, kernel=(1, 1, 5)).needed_halo().halo_w == 0
