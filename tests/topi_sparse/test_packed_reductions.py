"""Means and softmax of packed values against float64: values, and zeros in the halo and above C."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle import packed, run_kernel, sum_bound
from tests.topi_sparse.test_packed import check, draw, layouts, shapes, slow
from topi_sparse import packed_reductions
from topi_sparse.layout import PackedLayout

AXES = [(2, 3, 4), (3, 4), (2,), (2, 4), (1,), (1, 3), (1, 2, 3, 4)]
# What exp adds to the rounding: of its own, and of its argument of up to 16.
EXP = 32 * 2.0**-24


def filled(x, layout):
    """Packed, with other numbers than zeros above C, as a function of zeros may leave there."""
    stored = packed(x, layout)
    channels = layout.unpacked(np.zeros_like(stored), x.shape).shape[1]
    lanes = np.arange(stored.shape[1] * layout.c_block).reshape(stored.shape[1], -1) >= channels
    return np.where(lanes[None, :, None, None, None, :], np.float32(7), stored)


@slow
@given(shapes, layouts, layouts, st.sampled_from(AXES))
def test_mean(shape, x, y, axes):
    data = draw(shape)
    expected = data.astype("float64").mean(axes, keepdims=True)
    size = abs(data).astype("float64").mean(axes, keepdims=True)
    function = packed_reductions.mean(shape, x, y, "float32", axes=axes)
    bound = sum_bound(np.prod([shape[axis] for axis in axes]) + 1, size)
    stored = filled(data, x) if 1 in axes else packed(data, x)
    check(function, [stored], expected, y, bound)


@slow
@given(shapes, layouts, layouts, st.sampled_from([1, 2, 3, 4]), st.sampled_from([1, 5]))
def test_softmax(shape, x, y, axis, scale):
    """Of values whose exponentials alone would be infinite as well."""
    data = scale * draw(shape) + 200
    expected = torch.softmax(torch.from_numpy(data).double(), axis).numpy()
    function = packed_reductions.softmax(shape, x, y, "float32", axis=axis)
    check(function, [filled(data, x)], expected, y, (EXP + sum_bound(shape[axis], 1)) * expected)


@pytest.mark.parametrize("axis", [1, 3])
def test_softmax_in_float16_sums_in_float32(axis):
    shape, layout = (1, 11, 2, 3, 4), PackedLayout(c_block=8)
    data = draw(shape).astype("float16")
    function = packed_reductions.softmax(shape, layout, layout, "float16", axis=axis)
    result = run_kernel(function, [packed(data, layout)], layout.shape(shape))
    assert result.dtype == "float16"
    expected = torch.softmax(torch.from_numpy(data).double(), axis).numpy()
    # The result is rounded to 11 bits.
    np.testing.assert_allclose(layout.unpacked(result, shape), expected, rtol=2.0**-10)


def test_what_is_no_number_stays_along_its_axis():
    shape, layout = (1, 8, 2, 3, 4), PackedLayout(c_block=8)
    data = draw(shape)
    data[0, 3, 1, 2, 1] = np.nan
    function = packed_reductions.softmax(shape, layout, layout, "float32", axis=2)
    result = run_kernel(function, [packed(data, layout)], layout.shape(shape))
    found = np.isnan(layout.unpacked(result, shape))
    assert found[0, 3, :, 2, 1].all() and found.sum() == 2
