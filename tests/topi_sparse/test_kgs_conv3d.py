"""kgs_conv3d against float64: every shape of the geometry, every scheme and lane mapping."""

import json
import math

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.oracle import ConvCase, packed
from tests.random_convolutions import draw_convolution, draw_residual, draw_sizes, masked
from topi_sparse.cpu.kgs_conv3d import KGSConv3d, kgs_conv3d
from topi_sparse.cpu.register_tile import Tile
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import PackedLayout


@st.composite
def cases(draw) -> ConvCase:
    kernel, m, n = draw_sizes(draw)
    lanes = draw(st.sampled_from([16, 8]))
    c_block = lanes if n >= 4 else draw(st.sampled_from([n, 4]))
    group = KernelGroup(g_m=draw(st.sampled_from([32, 16, 8, 4])), g_n=min(4, c_block))
    halo = {"halo_h": draw(st.integers(0, 2)), "halo_w": draw(st.integers(0, 2))}
    shared = [k for k in (2, 4) if group.g_n == 4 and lanes <= group.g_m * k <= lanes * k]
    channels = draw(st.sampled_from([1, *shared]))
    return ConvCase.make(
        **draw_convolution(draw, kernel, m, n, group),
        residual=draw_residual(draw, lanes),
        tile=Tile(
            lanes=lanes if channels > 1 else min(lanes, group.g_m),
            width=draw(st.integers(1, 7)),
            chunk=draw(st.sampled_from([1, 3, 64])),
            channels=channels,
            by_element=group.g_n == 4 and channels == 1 and draw(st.booleans()),
        ),
        x=PackedLayout(c_block=c_block, halo_w=draw(st.integers(0, 2))),
        y=PackedLayout(c_block=lanes, **halo),
    )


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_any_convolution_equals_float64(case: ConvCase):
    result = case.run()
    expected, bound = case.expected()
    # NaN anywhere fails as well: the halo and the padding above M must be written, as zeros.
    np.testing.assert_array_less(
        abs(result - packed(expected, case.conv.y)) - packed(bound, case.conv.y), 1e-30
    )
    inside = packed(np.ones_like(expected), case.conv.y) == 1
    assert not result[~inside].any()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_a_definition_survives_json_and_its_offsets_are_invertible(case: ConvCase):
    conv = case.conv
    assert KGSConv3d.from_json(conv.to_json()) == conv
    assert json.loads(conv.to_json())["kept"] == conv.kept
    weight = KGSWeight.from_dense(
        case.weight, group=conv.group, chunk=conv.tile.chunk, row_multiple=conv.y.c_block
    )
    offsets = conv.offsets(weight.columns)
    np.testing.assert_array_equal(conv.columns(offsets, weight.pointers), weight.columns)


def test_a_wrong_weight_is_noticed():
    """The bound is narrow enough to fail on one weight of 108 being off by a thousandth."""
    group = KernelGroup(g_m=8, g_n=4)
    weight = masked((8, 4, 3, 3, 3), scheme="kgs", density=1.0, group=group, seed=0)
    layout = PackedLayout(c_block=8)
    case = ConvCase.make(
        weight,
        seed=0,
        group=group,
        data=(1, 4, 3, 4, 5),
        stride=(1, 1, 1),
        padding=(1,) * 6,
        dilation=(1, 1, 1),
        tile=Tile(lanes=8, width=4, chunk=1),
        x=layout,
        y=layout,
    )
    expected, bound = case.expected()
    case.weight[3, 2, 1, 1, 1] *= 1.001
    wrong, _ = case.expected()
    assert (abs(wrong - expected) > bound).any()


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_no_buffer_but_the_register_tile(lanes: int):
    """No im2col: the function allocates nothing but its accumulators."""
    group = KernelGroup(g_m=max(lanes, 8), g_n=4)
    layout = PackedLayout(c_block=lanes)
    case = ConvCase.make(
        np.ones((32, 16, 3, 3, 3), "float32"),
        seed=0,
        group=group,
        data=(1, 16, 4, 14, 14),
        stride=(1, 1, 1),
        padding=(1,) * 6,
        dilation=(1, 1, 1),
        tile=Tile(lanes=lanes, width=7, chunk=4),
        x=layout,
        y=layout,
    )
    sch = tvm.s_tir.Schedule(kgs_conv3d(case.conv))
    root = sch.get_sblock("root")
    blocks = [sch.get(block) for block in (root, *sch.get_child_blocks(root))]
    allocated = [buffer for block in blocks for buffer in block.alloc_buffers]
    assert sum(math.prod(int(e) for e in buffer.shape) for buffer in allocated) == group.g_m * 7
    # With a scope of its own a buffer would be taken from the heap, once a tile.
    assert {buffer.scope() for buffer in allocated} == {"global"}
