"""What a work-item has in registers, and the kernel group that it makes of zeros."""

import numpy as np
import pytest

from rt3d_tvm.compile.kernels.kernel import Convolution
from rt3d_tvm.compile.kernels.opencl import by_work_items
from rt3d_tvm.compile.targets import make_target
from tests.random_convolutions import masked
from topi_sparse.cpu.register_tile import GROUP_HEIGHTS
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.opencl.work_item import (
    item_channels,
    item_group,
    item_pruning_group,
    item_tile,
    work_item,
)

PLANE = 28 * 28


def tile_of(target: str, g_m: int, positions: int = PLANE):
    group = KernelGroup(g_m=g_m, g_n=4)
    item = work_item(make_target(target))
    return item_tile(channels=64, positions=positions, group=group, item=item)


@pytest.mark.parametrize("g_m", GROUP_HEIGHTS)
def test_two_pairs_of_waves_fit_into_an_adreno_s_registers(g_m):
    """Up to 32 of 4 x 32 bit: sums, activations, the weights of a channel, 4 of addresses."""
    tile, rows = tile_of("adreno", g_m)
    assert tile.by_element
    assert tile.channels == 1
    assert rows * tile.width // 4 + tile.width + rows // 4 + 4 <= 32


@pytest.mark.parametrize("g_m", GROUP_HEIGHTS)
def test_the_sums_fit_into_a_cpu_s_vectors(g_m):
    tile, rows = tile_of("opencl", g_m)
    assert not tile.by_element
    assert tile.lanes == 16
    assert (rows, tile.channels) == {4: (4, 4), 8: (8, 4), 16: (16, 1), 32: (32, 1)}[g_m]
    assert 20 <= tile.vectors(rows) * tile.width <= 24


@pytest.mark.parametrize("target", ["adreno", "opencl"])
def test_a_layer_of_one_position_has_many_work_items(target):
    tile, rows = tile_of(target, 32, positions=1)
    assert (tile.width, rows) == (1, 4)


@pytest.mark.parametrize(("target", "preferred"), [("adreno", "16x4"), ("opencl", "32x4")])
def test_the_group_to_prune_in_is_the_one_found_in_its_zeros(target, preferred):
    item = work_item(make_target(target))
    group = item_pruning_group(item)
    assert str(group) == preferred
    weight = masked((64, 64, 3, 3, 3), scheme="kgs", density=0.3, group=group, seed=0)
    assert item_group(weight, positions=PLANE, item=item) == group
    eight = KernelGroup(g_m=8, g_n=4)
    weight = masked((64, 64, 3, 3, 3), scheme="kgs", density=0.3, group=eight, seed=0)
    assert item_group(weight, positions=PLANE, item=item) == eight


def test_few_channels_are_padded_only_where_they_share_vectors():
    item = work_item(make_target("opencl"))
    assert item_channels(3, g_m=32, positions=PLANE, item=item) == 3
    assert item_channels(3, g_m=8, positions=PLANE, item=item) == 4
    assert item_channels(64, g_m=32, positions=PLANE, item=item) == 4


@pytest.mark.parametrize(
    ("plane", "accumulate", "expected"),
    [
        (28, "float32", "float32"),  # 1,024 weights, 401,408 activations
        (4, "float32", "float16"),  # 8,192 activations
        (28, "float16", "float16"),
    ],
)
def test_few_weights_keep_their_digits_where_sums_do(plane, accumulate, expected):
    item = work_item(make_target("adreno"), "float16", accumulate)
    weight = np.random.default_rng(0).standard_normal((32, 32, 1, 1, 1), "float32")
    shape = (1, 32, 8, plane, plane)
    conv = Convolution(
        data=shape,
        out=shape,
        weight=weight,
        bias=np.ones(32, "float32"),
        stride=(1, 1, 1),
        padding=(0,) * 6,
        dilation=(1, 1, 1),
        residual=False,
        relu=False,
    )
    kernel = by_work_items(conv, item, None)
    assert kernel.pack().dtype == kernel.products.weight_dtype == expected
    assert kernel.products.argument_types["bias"] == accumulate
    assert kernel.products.dtype == "float16"
