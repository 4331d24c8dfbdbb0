"""Packed operators on an OpenCL device, in both types, as test_packed has them on a CPU."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.opencl import plan_of, run_on_opencl
from tests.oracle import packed, sum_bound
from topi_sparse import packed as ops
from topi_sparse import packed_reductions
from topi_sparse.layout import PackedLayout
from topi_sparse.opencl.concat import opencl_concat, why_not_opencl_concat
from topi_sparse.opencl.pack import opencl_pack
from topi_sparse.packed_nest import elementwise

layouts = st.builds(
    PackedLayout, c_block=st.just(4), halo_h=st.integers(0, 2), halo_w=st.integers(0, 2)
)
shapes = st.tuples(st.integers(1, 2), st.sampled_from([1, 4, 11]), *(st.integers(3, 6),) * 3)
dtypes = st.sampled_from(["float32", "float16"])
slow = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
windows = st.tuples(*(st.integers(1, 3),) * 3)


def draw(shape, dtype, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def check(function, arrays, expected, y: PackedLayout, bound=0.0) -> None:
    """``arrays`` packed, the result packed in ``y`` and equal to the plain ``expected``."""
    result = run_on_opencl(function, arrays)
    outside = packed(np.ones(expected.shape), y) == 0
    assert not result[outside].any()
    allowed = packed(np.broadcast_to(bound, expected.shape), y)
    assert (abs(result - packed(expected, y)) <= allowed).all()


def rounded_bound(terms: int, size: np.ndarray, dtype: str) -> np.ndarray:
    """A sum in float32, rounded to ``dtype`` at the end."""
    bound = sum_bound(terms, size)
    return bound if dtype == "float32" else bound + sum_bound(1, size + bound, dtype)


@slow
@given(shapes, layouts, dtypes)
def test_pack_and_unpack(shape, layout, dtype):
    x = draw(shape, "float32")
    y = x.astype(dtype)
    check(ops.pack(shape, layout, dtype, plain="float32"), [x], y, layout)
    plain = run_on_opencl(ops.unpack(shape, layout, dtype, plain="float32"), [packed(y, layout)])
    np.testing.assert_array_equal(plain, y.astype("float32"))


@slow
@given(shapes, layouts, dtypes, st.sampled_from([1, 2, 8]))
def test_pack_simt(shape, layout, dtype, beside):
    x = draw(shape, "float32")
    function = opencl_pack(shape, layout, dtype, plain="float32", beside=beside)
    check(function, [x], x.astype(dtype), layout)


@pytest.mark.parametrize("channels", [3, 4, 7])
def test_pack_simt_stores_vectors_of_the_channels_that_there_are(channels):
    """A condition for whole blocks where the last one is not, and none for a number."""
    shape, layout = (1, channels, 2, 4, 16), PackedLayout(c_block=4, halo_h=1, halo_w=1)
    source = plan_of(opencl_pack(shape, layout, "float16", plain="float32", beside=8)).source
    kernel = source.split("_kernel_1(")[-1]
    assert kernel.count("x_ptr[") == 8 * channels
    assert kernel.count("vstore4((convert_half4(") == 8 * -(-channels // 4)
    assert kernel.count("if (") == (channels == 7)
    assert "y_ptr[" not in kernel


@slow
@given(shapes, layouts, layouts, layouts, dtypes)
def test_relu_minimum_and_add(shape, a, b, y, dtype):
    x0, x1 = draw(shape, dtype), draw(shape, dtype, 1)
    relu = elementwise([(shape, a)], shape, y, dtype, [("relu", (0,))])
    check(relu, [packed(x0, a)], np.maximum(x0, 0), y)
    add = elementwise([(shape, a), (shape, b)], shape, y, dtype, [("add", (0, 1))])
    check(add, [packed(x0, a), packed(x1, b)], x0 + x1, y)
    bounded = elementwise([(shape, a)], shape, y, dtype, [("minimum", (0, 0.25))])
    check(bounded, [packed(x0, a)], np.minimum(x0, 0.25), y)


@slow
@given(st.integers(1, 2), st.sampled_from([(8, 4, 5), (5, 11, 8), (3, 3, 3)]), *(layouts,) * 3)
def test_concat(batch, channels, a, b, y):
    """Parts that fill their channel blocks, and parts that end inside one."""
    parts = [(batch, c, 2, 3, 4) for c in channels]
    data = [draw(part, "float16", seed) for seed, part in enumerate(parts)]
    arrays = [packed(x, layout) for x, layout in zip(data, (a, b, a), strict=True)]
    check(ops.concat(parts, [a, b, a], y, "float16"), arrays, np.concatenate(data, 1), y)


@slow
@given(
    st.integers(1, 2),
    st.sampled_from([(8, 4, 5), (4, 4), (12, 8, 4, 7)]),
    *(layouts,) * 3,
    st.sampled_from([1, 4]),
    dtypes,
)
def test_concat_simt(batch, channels, a, b, y, beside, dtype):
    parts = [(batch, c, 2, 3, 6) for c in channels]
    data = [draw(part, dtype, seed) for seed, part in enumerate(parts)]
    inputs = [(a, b)[i % 2] for i in range(len(parts))]
    arrays = [packed(x, layout) for x, layout in zip(data, inputs, strict=True)]
    function = opencl_concat(parts, inputs, y, dtype, beside=beside)
    check(function, arrays, np.concatenate(data, 1), y)


def test_a_part_that_ends_inside_a_channel_block_is_not_concatenated_by_vectors():
    assert why_not_opencl_concat([(1, 8, 2, 3, 4), (1, 5, 2, 3, 4)]) is None
    reason = why_not_opencl_concat([(1, 5, 2, 3, 4), (1, 8, 2, 3, 4)])
    assert reason == "a part has 5 channels, no multiple of 4"


@slow
@given(shapes, layouts, layouts, windows, windows, st.booleans(), dtypes)
def test_max_pool3d(shape, x, y, window, stride, padded, dtype):
    padding = tuple(k // 2 if padded else 0 for k in window)
    data = draw(shape, dtype) - np.asarray(3, dtype)
    wide = torch.from_numpy(data).double()
    pooled = functional.max_pool3d(wide, window, stride, padding).numpy().astype(dtype)
    function = ops.max_pool3d(
        shape,
        x,
        y,
        dtype,
        out=pooled.shape,
        window=window,
        stride=stride,
        padding=(*padding, *padding),
    )
    check(function, [packed(data, x)], pooled, y)


@slow
@given(shapes, layouts, layouts, windows, windows, dtypes)
def test_avg_pool3d(shape, x, y, window, stride, dtype):
    data = draw(shape, dtype)
    wide = torch.from_numpy(data).double()
    pooled = functional.avg_pool3d(wide, window, stride).numpy()
    size = functional.avg_pool3d(wide.abs(), window, stride).numpy()
    function = ops.avg_pool3d(shape, x, y, dtype, out=pooled.shape, window=window, stride=stride)
    bound = rounded_bound(int(np.prod(window)) + 1, size, dtype)
    check(function, [packed(data, x)], pooled, y, bound)


@slow
@given(shapes, layouts, layouts, dtypes)
def test_mean(shape, x, y, dtype):
    data = draw(shape, dtype)
    axes = (2, 3, 4)
    expected = data.astype("float64").mean(axes, keepdims=True)
    size = abs(data).astype("float64").mean(axes, keepdims=True)
    bound = rounded_bound(int(np.prod(shape[2:])) + 1, size, dtype)
    check(packed_reductions.mean(shape, x, y, dtype), [packed(data, x)], expected, y, bound)


@slow
@given(shapes, layouts, layouts, st.sampled_from([1, 2, 4]), dtypes)
def test_softmax(shape, x, y, axis, dtype):
    data = draw(shape, dtype)
    expected = torch.softmax(torch.from_numpy(data.astype("float64")), axis).numpy()
    bound = rounded_bound(shape[axis] + 32, expected, dtype)
    function = packed_reductions.softmax(shape, x, y, dtype, axis=axis)
    check(function, [packed(data, x)], expected, y, bound)


@pytest.mark.parametrize("halo", [0, 1])
def test_a_guard_is_never_a_select(halo):
    """TVM prints a vectorised select whose lanes share a condition wrongly: none may be there.

    The ReLU's own compares a vector of values, which gives each lane a condition of its own.
    """
    shape, y = (1, 8, 2, 4, 4), PackedLayout(c_block=4, halo_h=halo, halo_w=halo)
    x = PackedLayout(c_block=4)
    relu = elementwise([(shape, x)], shape, y, "float16", [("relu", (0,))])
    source = plan_of(relu).source
    assert "half4 v = " in source
    assert source.count("select(") == source.count("convert_short4((v < ((half4)(")
    assert ("if (" in source) == bool(halo)
