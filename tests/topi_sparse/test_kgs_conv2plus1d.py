"""kgs_conv2plus1d against float64, beside its two kernels alone, and in generated code."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rt3d_tvm.compile.targets import make_target
from tests.assembly import assembly, innermost_loops, multiply_adds
from tests.oracle import ConvCase, activated, conv3d_float64, packed, run_kernel, sum_bound
from tests.random_convolutions import draw_residual, masked
from topi_sparse.cpu.kgs_conv2plus1d import (
    MAX_WEIGHT_BYTES,
    KGSConv2Plus1D,
    kgs_conv2plus1d,
    why_not_paired,
    why_not_worth,
)
from topi_sparse.cpu.register_tile import Tile
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.layout import PackedLayout


def draw_conv(draw, filters: int, data, kernel, stride, padding, dilation, dtype, **layouts):
    """One of the two convolutions, with a tile of its own."""
    c_block = layouts["y"].c_block
    g_n = min(4, layouts["x"].c_block)
    group = KernelGroup(g_m=draw(st.sampled_from([32, 8])), g_n=g_n)
    shared = [4] if g_n == 4 and c_block <= group.g_m * 4 and group.g_m <= c_block else []
    channels = draw(st.sampled_from([1, *shared]))
    return ConvCase.make(
        masked(
            (filters, data[1], *kernel),
            scheme=draw(st.sampled_from(["filter", "kgs"])),
            density=draw(st.sampled_from([0.4, 1.0])),
            group=group,
            seed=draw(st.integers(0, 99)),
        ),
        seed=draw(st.integers(0, 99)),
        group=group,
        data=data,
        stride=stride,
        padding=padding,
        dilation=dilation,
        relu=draw(st.booleans()),
        ceiling=draw(st.sampled_from([None, 0.5])),
        dtype=dtype,
        tile=Tile(
            lanes=c_block if channels > 1 else min(c_block, group.g_m),
            width=draw(st.integers(1, 6)),
            chunk=draw(st.sampled_from([1, 4, 64])),
            channels=channels,
            by_element=g_n == 4 and channels == 1 and draw(st.booleans()),
        ),
        **layouts,
    )


@st.composite
def pairs(draw) -> tuple[ConvCase, ConvCase]:
    """Two convolutions that are a pair, the second with no input yet."""
    c_block, dtype = draw(st.sampled_from([16, 8])), draw(st.sampled_from(["float32", "float16"]))
    layout = PackedLayout(c_block=c_block)
    size = draw(st.integers(1, 3))
    pad_h, pad_w = (draw(st.integers(0, size // 2)) for _ in range(2))
    channels = draw(st.sampled_from([3, 5, 20]))
    height, width = (draw(st.integers(size, 9)) for _ in range(2))
    spatial = draw_conv(
        draw,
        draw(st.sampled_from([5, 16, 45])),
        (draw(st.integers(1, 2)), channels, draw(st.integers(1, 7)), height, width),
        (1, size, size),
        (1, draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        (0, pad_h, pad_w) * 2,
        (1, 1, 1),
        dtype,
        x=PackedLayout(c_block=c_block if channels >= 4 else channels),
        y=layout,
    )
    taps, step = draw(st.sampled_from([2, 3, 7])), draw(st.integers(1, 2))
    reach = (taps - 1) * step
    front = draw(st.integers(0, reach))
    back = draw(st.integers(max(reach + 1 - spatial.conv.out[2] - front, 0), reach + 1))
    temporal = draw_conv(
        draw,
        draw(st.sampled_from([1, 16, 40])),
        spatial.conv.out,
        (taps, 1, 1),
        (draw(st.integers(1, 3)), 1, 1),
        (front, 0, 0, back, 0, 0),
        (step, 1, 1),
        dtype,
        x=layout,
        y=PackedLayout(c_block=c_block, halo_h=draw(st.integers(0, 1)), halo_w=1),
        residual=draw_residual(draw, c_block),
    )
    return spatial, temporal


def run_pair(spatial: ConvCase, temporal: ConvCase) -> np.ndarray:
    """The kernel's packed result."""
    pair = KGSConv2Plus1D(spatial=spatial.conv, temporal=temporal.conv)
    arrays = temporal.arrays()
    columns = temporal.conv.columns(*arrays[2:4])
    arrays[2] = pair.from_band.offsets(columns)
    shape = temporal.conv.y.shape(temporal.conv.out)
    return run_kernel(kgs_conv2plus1d(pair), [*spatial.arrays(), *arrays[1:]], shape)


def expected_of(spatial: ConvCase, temporal: ConvCase) -> tuple[np.ndarray, np.ndarray]:
    """The plain result in float64, and how far the kernel may be from it.

    What the first convolution is off by passes the second one's weights; the second adds its own.
    """
    between, off = spatial.expected()
    after, conv = replace(temporal, x=between), temporal.conv
    geometry = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    result = conv3d_float64(between, temporal.weight.astype("float64"), temporal.bias, **geometry)
    passed = conv3d_float64(off, abs(temporal.weight), None, **geometry)
    size = conv3d_float64(abs(between) + off, abs(after.weight), abs(after.bias), **geometry)
    if temporal.residual is not None:
        result, size = result + temporal.residual, size + abs(temporal.residual)
    own = sum_bound(temporal.weight[0].size + 2, size, conv.dtype)
    return activated(result, conv), passed + own


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(pairs())
def test_any_pair_equals_float64(pair):
    spatial, temporal = pair
    assert why_not_paired(spatial.conv, temporal.conv) is None
    y = temporal.conv.y
    result = run_pair(spatial, temporal)
    expected, bound = expected_of(spatial, temporal)
    # NaN anywhere fails as well.
    np.testing.assert_array_less(abs(result - packed(expected, y)) - packed(bound, y), 1e-30)
    assert not result[packed(np.ones_like(expected), y) == 0].any()


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(pairs())
def test_a_definition_survives_json(pair):
    spatial, temporal = pair
    both = KGSConv2Plus1D(spatial=spatial.conv, temporal=temporal.conv)
    assert KGSConv2Plus1D.from_json(both.to_json()) == both


def layer_of(filters: int, data, kernel, padding, stride=(1, 1, 1), tile=None, **fields):
    """A convolution of R(2+1)D's or S3D's kind in kernel groups of 8x4."""
    group = KernelGroup(g_m=8, g_n=4)
    return ConvCase.make(
        masked((filters, data[1], *kernel), scheme="kgs", density=0.5, group=group, seed=0),
        seed=0,
        group=group,
        data=data,
        stride=stride,
        padding=padding,
        dilation=(1, 1, 1),
        relu=True,
        tile=tile or Tile(lanes=8, width=4, chunk=4),
        x=PackedLayout(c_block=8),
        y=PackedLayout(c_block=8),
        **fields,
    ).conv


SPATIAL = {"filters": 24, "data": (1, 16, 6, 8, 8), "kernel": (1, 3, 3), "padding": (0, 1, 1) * 2}
TEMPORAL = {"filters": 16, "data": (1, 24, 6, 8, 8), "kernel": (3, 1, 1), "padding": (1, 0, 0) * 2}


def test_these_two_are_a_pair():
    assert why_not_paired(layer_of(**SPATIAL), layer_of(**TEMPORAL)) is None


@pytest.mark.parametrize(
    ("spatial", "temporal", "reason"),
    [
        ({"kernel": (3, 3, 3)}, {}, "the first has windows of 3 along D"),
        ({"stride": (2, 1, 1)}, {}, "the first has windows of 1 along D, not 1 at every plane"),
        ({"padding": (1, 1, 1) * 2}, {}, "not 1 at every plane"),
        ({}, {"kernel": (1, 1, 1), "padding": (0,) * 6}, "the second has no window along D"),
        ({}, {"kernel": (3, 3, 3), "padding": (1,) * 6}, "the second has windows of (3, 3)"),
        ({}, {"stride": (1, 2, 2)}, "the second has windows of (1, 1) over H and W"),
        ({}, {"padding": (1, 1, 0) * 2}, "the second pads H and W"),
        ({"residual": PackedLayout(c_block=8)}, {}, "something is added between"),
        ({"dtype": "float16"}, {}, "the first gives float16, the second computes in float32"),
        ({}, {"padding": (3, 0, 0) * 2}, "planes that are all padding"),
    ],
)
def test_why_two_are_no_pair(spatial, temporal, reason):
    convs = layer_of(**{**SPATIAL, **spatial}), layer_of(**{**TEMPORAL, **temporal})
    assert reason in why_not_paired(*convs)


def test_a_pair_is_left_apart_where_rows_read_too_many_weights_or_are_too_few():
    pair = KGSConv2Plus1D(spatial=layer_of(**SPATIAL), temporal=layer_of(**TEMPORAL))
    assert why_not_worth(pair, threads=2) is None
    assert "its 8 rows keep 5 threads busy for 80%" in why_not_worth(pair, threads=5)
    weights = pair.spatial.weights + pair.temporal.weights
    heavy = replace(pair.spatial, weights=MAX_WEIGHT_BYTES // 4 - pair.temporal.weights)
    assert why_not_worth(replace(pair, spatial=heavy), threads=2) is None
    heavy = replace(heavy, weights=heavy.weights + 1)
    reason = why_not_worth(replace(pair, spatial=heavy), threads=2)
    assert f"take {MAX_WEIGHT_BYTES + 4} of {MAX_WEIGHT_BYTES} bytes" in reason
    assert weights * 4 < MAX_WEIGHT_BYTES


def test_only_a_row_of_what_lies_between_is_stored_and_no_loop_spills():
    """Generated code for a phone: one workspace of a row, by-element sums that leave the stack."""
    target = make_target("cortex-a77")
    tile = Tile(lanes=4, width=7, chunk=4, by_element=True)
    block = {"x": PackedLayout(c_block=4), "y": PackedLayout(c_block=4)}
    spatial, temporal = (
        replace(layer_of(**fields), tile=tile, **block) for fields in (SPATIAL, TEMPORAL)
    )
    pair = KGSConv2Plus1D(spatial=replace(spatial, x=spatial.needed_halo()), temporal=temporal)
    between = math.prod(pair.between.shape(pair.from_band.data))
    assert between * SPATIAL["data"][3] == math.prod(spatial.out)
    function = kgs_conv2plus1d(pair)
    assert f"sblock_alloc_buffer({pair.between.shape(pair.from_band.data)})" in function.script()
    loops = [x for x in innermost_loops(assembly(function, target)) if multiply_adds(x)]
    vectors = pair.spatial.group.g_m // tile.lanes
    assert [len(multiply_adds(loop)) for loop in loops].count(vectors * tile.width * 4) == 2
    for loop in loops:
        assert not [line for line in loop if re.search(r"\[sp", line)]
