"""depthwise_conv3d against float64: tails, strides, padding, dilation, in two and three axes."""

import dataclasses
import math
import re

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rt3d_tvm.compile.targets import make_target
from schedules.table import rules
from tests.oracle import activated, conv3d_float64, packed, run_kernel, sum_bound
from topi_sparse.cpu.depthwise_conv3d import (
    DepthwiseConv3d,
    default_width,
    depthwise_conv3d,
    packed_windows,
)
from topi_sparse.cpu.register_tile import vector_unit
from topi_sparse.layout import PackedLayout


@st.composite
def cases(draw) -> DepthwiseConv3d:
    kernel = draw(
        st.sampled_from([(1, 3, 3), (3, 3, 3), (1, 5, 5), (3, 1, 1), (1, 1, 1), (2, 2, 3)])
    )
    lanes = draw(st.sampled_from([4, 8, 16]))
    channels = draw(st.sampled_from([1, 3, 16, 21, 33]))
    dilation = tuple(draw(st.integers(1, 2)) for _ in kernel)
    padding = tuple(draw(st.integers(0, min(k, 3) + 1)) for k in kernel * 2)
    extents = [
        max(draw(st.integers(1, 12)), (k - 1) * step + 1 - before - after, 1)
        for k, step, before, after in zip(kernel, dilation, padding[:3], padding[3:], strict=True)
    ]
    halo = st.integers(0, 2)
    conv = DepthwiseConv3d(
        data=(draw(st.integers(1, 2)), channels, *extents),
        filters=channels,
        kernel=kernel,
        stride=tuple(draw(st.integers(1, 3)) for _ in kernel),
        padding=padding,
        dilation=dilation,
        width=draw(st.integers(1, 7)),
        x=PackedLayout(c_block=lanes, halo_w=draw(halo)),
        y=PackedLayout(c_block=lanes, halo_h=draw(halo), halo_w=draw(halo)),
        residual=draw(st.none() | st.just(PackedLayout(c_block=lanes, halo_w=1))),
        relu=draw(st.booleans()),
        ceiling=draw(st.sampled_from([None, 0.5])),
        dtype=draw(st.sampled_from(["float32", "float16"])),
    )
    return dataclasses.replace(conv, x=conv.needed_halo().covering(conv.x))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(conv=cases(), seed=st.integers(0, 99))
def test_any_depthwise_convolution_equals_float64(conv: DepthwiseConv3d, seed: int):
    rng = np.random.default_rng(seed)

    def drawn(shape) -> np.ndarray:
        return rng.standard_normal(shape).astype(conv.dtype)

    x, weight, bias = drawn(conv.data), drawn((conv.filters, 1, *conv.kernel)), drawn(conv.filters)
    residual = drawn(conv.out) if conv.residual else None
    wide = np.zeros(conv.stored_filters, conv.dtype)
    wide[: conv.filters] = bias
    arrays = [packed(x, conv.x), packed_windows(weight, conv.x.c_block), wide]
    arrays += [] if residual is None else [packed(residual, conv.residual)]
    result = run_kernel(depthwise_conv3d(conv), arrays, conv.y.shape(conv.out))

    geometry = {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.filters,
    }
    expected = conv3d_float64(x, weight, bias, **geometry)
    size = conv3d_float64(abs(x), abs(weight), abs(bias), **geometry)
    if residual is not None:
        expected, size = expected + residual, size + abs(residual)
    bound = sum_bound(math.prod(conv.kernel) + 2, size, conv.dtype)
    # NaN anywhere fails as well: the halo and what is above C must be written, as zeros.
    np.testing.assert_array_less(
        abs(result - packed(activated(expected, conv), conv.y)) - packed(bound, conv.y), 1e-30
    )
    assert not result[packed(np.ones_like(expected), conv.y) == 0].any()
    assert DepthwiseConv3d.from_json(conv.to_json()) == conv


def test_weights_are_stored_with_channels_in_lanes():
    weight = np.arange(5 * 2 * 3, dtype="float32").reshape(5, 1, 1, 2, 3)
    stored = packed_windows(weight, 4).reshape(2, 1, 2, 3, 4)
    assert stored[0, 0, 1, 2].tolist() == weight[:4, 0, 0, 1, 2].tolist()
    assert stored[1, 0, 1, 2].tolist() == [weight[4, 0, 0, 1, 2], 0, 0, 0]


@pytest.mark.parametrize("target", ["x86-64-avx512", "x86-64-avx2", "cortex-a77"])
@pytest.mark.parametrize("stride", [1, 2])
def test_accumulators_stay_in_registers(target: str, stride: int):
    """No accumulator goes to the stack and back at the width that the rule chooses.

    Weights may wait there: LLVM loads them once a row, and from the stack instead of the tensor.
    """
    made_for = make_target(target)
    unit = vector_unit(made_for)
    layout = PackedLayout(c_block=unit.lanes)
    conv = DepthwiseConv3d(
        data=(1, 2 * unit.lanes, 1, 56 * stride, 56 * stride),
        filters=2 * unit.lanes,
        kernel=(1, 3, 3),
        stride=(1, stride, stride),
        padding=(0, 1, 1, 0, 1, 1),
        dilation=(1, 1, 1),
        width=default_width(out_width=56, kernel_w=3, unit=unit),
        x=layout,
        y=layout,
        relu=True,
        ceiling=6.0,
    )
    conv = dataclasses.replace(conv, x=conv.needed_halo())
    mod = tvm.IRModule({"main": depthwise_conv3d(conv).with_attr("global_symbol", "main")})
    with made_for:
        mod = tvm.s_tir.dlight.ApplyDefaultSchedule(*rules("cpu"))(mod)
    lines = tvm.compile(mod, target=made_for).mod.inspect_source("s").splitlines()
    found = [i for i, line in enumerate(lines) if re.search(r"\t(vfmadd\w+|fmla)\t", line)]
    assert len(found) >= 3 * conv.width
    stored = r"[yz]mm\d+, .*rsp|\t(str|stp|stur)\tq\d+.*\[sp"
    assert not [line for line in lines[found[0] : found[-1]] if re.search(stored, line)]
