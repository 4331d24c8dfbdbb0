"""The weight format: round trip, size, order, and what is kept."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.random_convolutions import SCHEMES, masked
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight, row_blocks
from topi_sparse.layout import ceil_div

groups = st.builds(KernelGroup, g_m=st.integers(1, 9), g_n=st.integers(1, 5))


@settings(max_examples=200, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 20), st.integers(1, 20), *(st.integers(1, 3),) * 3)),
    group=groups,
    channels=st.integers(1, 5),
    scheme=st.sampled_from(SCHEMES),
    density=st.sampled_from([0.0, 0.2, 1.0]),
    chunk=st.integers(1, 6),
    row_multiple=st.sampled_from([1, 4, 16]),
)
def test_from_dense_and_back(shape, group, channels, scheme, density, chunk, row_multiple):
    weight = masked(shape, scheme=scheme, density=density, group=group, seed=0)
    packed = KGSWeight.from_dense(
        weight,
        group=group,
        chunk=chunk,
        row_multiple=row_multiple,
        channels=math.gcd(channels, group.g_n),
    )
    np.testing.assert_array_equal(packed.decompress(), weight)
    blocks, last_rows = row_blocks(shape[0], group.g_m, row_multiple)
    chunks = ceil_div(ceil_div(shape[1], group.g_n), chunk)
    assert len(packed.pointers) == blocks * chunks * shape[2] + 1
    assert packed.pointers[-1] == packed.kept == len(packed.columns)
    assert packed.blocks.size <= packed.kept * group.g_m * group.g_n
    assert (blocks - 1) * group.g_m + last_rows >= shape[0]


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 20), st.integers(1, 20), *(st.integers(1, 3),) * 3)),
    g_m=st.integers(1, 9),
    density=st.sampled_from([0.0, 0.2, 1.0]),
    together=st.integers(2, 3),
)
def test_columns_together_are_filled_up_and_lie_side_by_side(shape, g_m, density, together):
    group = KernelGroup(g_m=g_m, g_n=4)
    weight = masked(shape, scheme="kgs", density=density, group=group, seed=0)
    options = {"group": group, "chunk": ceil_div(shape[1], 4), "row_multiple": 4, "channels": 4}
    one, packed = (KGSWeight.from_dense(weight, together=n, **options) for n in (1, together))
    np.testing.assert_array_equal(packed.decompress(), weight)
    fewest, filled = np.diff(one.pointers), np.diff(packed.pointers)
    np.testing.assert_array_equal(filled, -(-fewest // together) * together)
    if packed.kept and one.pointers[-1] == one.pointers[shape[2]]:  # one row block
        rows = row_blocks(shape[0], g_m, 4)[1]
        first = packed.blocks[: rows * together * 4].reshape(rows, together, 4)
        np.testing.assert_array_equal(first[:, 0].ravel(), one.blocks[: rows * 4])


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 20), st.integers(1, 20), *(st.integers(1, 2),) * 3)),
    g_m=st.integers(1, 9),
    deviation=st.sampled_from([20, 60, 200]),
    density=st.sampled_from([0.2, 1.0]),
    together=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_pairs_stay_within_their_limit(shape, g_m, deviation, density, together, seed):
    """No product of vpmaddubsw saturates, whatever the inputs; the weights are what they were."""
    group = KernelGroup(g_m=g_m, g_n=4)
    mask = masked(shape, scheme="kgs", density=density, group=group, seed=seed) != 0
    values = np.random.default_rng(seed).normal(0, deviation, shape)
    weight = (np.clip(values, -128, 127).astype("int8")) * mask
    packed = KGSWeight.from_dense(
        weight,
        group=group,
        chunk=ceil_div(shape[1], 4),
        channels=4,
        together=together,
        pair_limit=128,
    )
    np.testing.assert_array_equal(packed.decompress(), weight)
    pairs = packed.blocks.reshape(-1, 2).astype(int)
    for sign in (1, -1):
        assert 255 * np.maximum(sign * pairs, 0).sum(axis=1).max(initial=0) <= 32768 - (sign > 0)
    one = KGSWeight.from_dense(weight, group=group, chunk=packed.chunk, channels=4)
    assert packed.kept <= 2 * one.kept + (together - 1) * (len(packed.pointers) - 1)


def test_exactly_the_columns_with_a_weight_are_kept():
    group = KernelGroup(g_m=2, g_n=2)
    weight = np.zeros((4, 6, 1, 1, 3), "float32")
    weight[3, 4, 0, 0, 1] = 5.0  # row block 1, channel group 2, location (0, 0, 1)
    weight[0, 1, 0, 0, 2] = 7.0  # row block 0, channel group 0, location (0, 0, 2)
    packed = KGSWeight.from_dense(weight, group=group, chunk=1)
    np.testing.assert_array_equal(packed.columns, [[0, 0, 0, 2], [2, 0, 0, 1]])
    np.testing.assert_array_equal(packed.blocks, [0, 0, 7, 0, 0, 5, 0, 0])
    shared = KGSWeight.from_dense(weight, group=group, chunk=1, channels=2)
    np.testing.assert_array_equal(shared.blocks, [0, 7, 0, 0, 0, 0, 5, 0])
    # pointers of (row block, chunk): (0, 0) has the first column, (1, 2) the second
    np.testing.assert_array_equal(packed.pointers, [0, 1, 1, 1, 1, 1, 2])


def test_columns_of_one_chunk_are_sorted_by_kd_so_that_a_range_of_kd_is_one_run():
    group = KernelGroup(g_m=4, g_n=4)
    weight = masked((8, 16, 3, 3, 3), scheme="kgs", density=0.5, group=group, seed=1)
    packed = KGSWeight.from_dense(weight, group=group, chunk=2)
    for first, last, kd in zip(
        packed.pointers[:-1], packed.pointers[1:], np.tile(range(3), 4), strict=True
    ):
        assert set(packed.columns[first:last, 1]) <= {kd}
