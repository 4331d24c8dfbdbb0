"""group_norm against float64: groups, tails, halos, residuals; a large mean costs no digits."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.oracle import UNIT_ROUNDOFF, packed, run_kernel
from topi_sparse.cpu.group_norm import GroupNorm
from topi_sparse.layout import PackedLayout

C_BLOCK = 8
layouts = st.builds(
    PackedLayout, c_block=st.just(C_BLOCK), halo_h=st.integers(0, 2), halo_w=st.integers(0, 2)
)


@st.composite
def cases(draw) -> tuple[GroupNorm, int]:
    """A definition, and a seed for its data."""
    groups = draw(st.integers(1, 6))
    channels = groups * draw(st.integers(1, 4))
    return GroupNorm(
        data=(draw(st.integers(1, 2)), channels, *(draw(st.integers(1, 9)) for _ in range(3))),
        groups=groups,
        epsilon=draw(st.sampled_from([1e-5, 1e-3])),
        x=draw(layouts),
        y=draw(layouts),
        residual=draw(st.none() | layouts),
        relu=draw(st.booleans()),
        steps=draw(st.sampled_from([(), (("leaky_relu", (0, 0.25)),)])),
    ), draw(st.integers(0, 99))


def expected(norm: GroupNorm, x, scale, shift, residual) -> np.ndarray:
    grouped = x.astype("float64").reshape(x.shape[0], norm.groups, -1)
    mean, variance = (f(grouped, axis=2, keepdims=True) for f in (np.mean, np.var))
    wide = ((grouped - mean) / np.sqrt(variance + norm.epsilon)).reshape(x.shape)
    wide = wide * scale[:, None, None, None] + shift[:, None, None, None]
    wide = wide if residual is None else wide + residual
    wide = np.maximum(wide, 0) if norm.relu else wide
    return np.where(wide < 0, wide * 0.25, wide) if norm.steps else wide


def computed(norm: GroupNorm, x, scale, shift, residual) -> np.ndarray:
    """The packed result; above C a ReLU's worth of zeros."""
    stored = [np.zeros(norm.stored_channels, "float32") for _ in range(2)]
    for into, values in zip(stored, (scale, shift), strict=True):
        into[: len(values)] = values
    arrays = [packed(x, norm.x), *stored]
    if residual is not None:
        arrays.append(packed(residual, norm.residual))
    return run_kernel(norm.prim_func(), arrays, norm.y.shape(norm.data))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_any_norm_is_that_of_float64(case):
    norm, seed = case
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(norm.data).astype("float32") + np.float32(2)
    scale, shift = rng.standard_normal((2, norm.data[1])).astype("float32")
    residual = rng.standard_normal(norm.data).astype("float32") if norm.residual else None
    wide = expected(norm, x, scale, shift, residual)
    # An input is rounded relative to itself, 6 at most, and what is left of it grows by the factor.
    grown = abs(x).max() * abs(scale).max() / np.sqrt(norm.epsilon)
    count = np.prod(norm.data[2:]) * norm.data[1] // norm.groups
    smallest = x.reshape(*x.shape[:1], norm.groups, -1).std(axis=2).min() if count > 1 else 0
    if smallest:
        grown = min(grown, abs(x).max() * abs(scale).max() / smallest)
    bound = 64 * UNIT_ROUNDOFF * (grown + abs(wide).max() + 1)
    difference = computed(norm, x, scale, shift, residual) - packed(wide, norm.y)
    assert abs(difference).max() <= bound  # NaN where nothing was written


def test_a_definition_is_what_its_json_says():
    layout = PackedLayout(c_block=8, halo_h=1)
    norm = GroupNorm(
        data=(1, 8, 2, 3, 4), groups=2, epsilon=1e-5, x=layout, y=layout, steps=(("silu", (0,)),)
    )
    assert GroupNorm.from_json(norm.to_json()) == norm
    assert not norm.is_finished_by_sum
    assert dataclasses.replace(norm, steps=()).is_finished_by_sum


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_neither_a_large_plane_nor_a_large_mean_costs_digits(groups):
    """A running sum of so many values, or E[x^2] - E[x]^2, would lose three digits and more."""
    layout = PackedLayout(c_block=C_BLOCK)
    norm = GroupNorm(data=(1, 16, 6, 60, 61), groups=groups, epsilon=1e-5, x=layout, y=layout)
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(norm.data) + 300).astype("float32")
    x[:, :, :, 0] -= 300  # a first row that says nothing of the others
    ones, zeros = np.ones(16, "float32"), np.zeros(16, "float32")
    wide = expected(norm, x, ones, zeros, None)
    result = layout.unpacked(computed(norm, x, ones, zeros, None), norm.data)
    # Rounding the product x * factor alone costs so much.
    bound = 8 * UNIT_ROUNDOFF * 300 / x.std(axis=(2, 3, 4)).min()
    assert abs(result - wide).max() <= bound
