"""Vectors of 8-bit elements on a GPU: only of neighbours, against float64."""

import numpy as np
import pytest
from tvm import te

from tests.opencl import device, plan_of, run_on_opencl

LANES, WINDOW = 4, 2


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("how", ["neighbours", "scattered", "planes"])
def test_a_pool_of_bytes_has_vectors_of_neighbours_only(dtype, how):
    """planes: the lanes are the first axis of the input, as of one that is not packed yet."""
    device(half=False)
    step = 2 if how == "scattered" else 1
    shape = (LANES, 9, 5) if how == "planes" else (9, 5, step * LANES)
    x = te.placeholder(shape, dtype, "x")
    k = te.reduce_axis((0, WINDOW), "k")

    def value(i, j, lane):
        at = (lane, i, j + k.var) if how == "planes" else (i, j + k.var, lane * step)
        return te.max(x(*at), axis=k)

    pool = te.compute((9, 4, LANES), value, "pool")
    y = te.compute(pool.shape, lambda *i: pool(*i).astype("float32"), "y")
    function = te.create_prim_func([x, y])
    is_vector = f"{dtype.replace('int8', 'char')}4 " in plan_of(function).source
    assert is_vector == (how == "neighbours")
    low = 0 if dtype == "uint8" else -128
    data = np.random.default_rng(0).integers(low, low + 256, shape).astype(dtype)
    planes = data.transpose(1, 2, 0) if how == "planes" else data[..., ::step]
    expected = np.maximum(planes[:, :4], planes[:, 1:]).astype("float64")
    np.testing.assert_array_equal(run_on_opencl(function, [data]), expected)
