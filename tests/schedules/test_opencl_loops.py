"""Vectors on a GPU: of bytes only where they are neighbours, and of conditions."""

import numpy as np
import pytest
from tvm import te, tirx

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


@pytest.mark.parametrize("shape", [(), (1, 1), (1, LANES), (9, 1), (9, LANES)])
def test_a_choice_by_booleans_is_numpys(shape):
    """Of one for all, which is the same in all lanes, as of one for each element."""
    device(half=False)
    rng = np.random.default_rng(0)
    condition, data = rng.random(shape) < 0.5, rng.standard_normal((9, LANES)).astype("float32")
    c = te.placeholder(shape, "bool", "c")
    x = te.placeholder(data.shape, "float32", "x")

    def value(i, j):
        at = [0 if extent == 1 else k for extent, k in zip(shape, (i, j), strict=False)]
        return tirx.Select(c(*at), x(i, j), tirx.const(-2.0))

    function = te.create_prim_func([c, x, te.compute(data.shape, value, "y")])
    for chosen in (condition, ~condition):
        y = run_on_opencl(function, [np.array(chosen), data])
        np.testing.assert_array_equal(y, np.where(chosen, data, np.float32(-2)))


def test_a_choice_by_a_number_that_all_lanes_share_is_numpys():
    device(half=False)
    k = te.placeholder((9,), "int32", "k")
    x = te.placeholder((9, LANES), "float32", "x")
    y = te.compute(x.shape, lambda i, j: tirx.Select(k(i) > 2, x(i, j), -x(i, j)), "y")
    numbers, data = np.arange(9, dtype="int32"), np.ones((9, LANES), "float32")
    result = run_on_opencl(te.create_prim_func([k, x, y]), [numbers, data])
    np.testing.assert_array_equal(result, np.where(numbers[:, None] > 2, data, -data))
