"""Packed operators against torch in float64: values, and zeros in the halo and above C."""

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.oracle import packed, run_kernel, sum_bound
from topi_sparse import packed as ops
from topi_sparse import packed_moves
from topi_sparse.layout import PackedLayout
from topi_sparse.packed_nest import elementwise

C_BLOCK = 8
layouts = st.builds(
    PackedLayout, c_block=st.just(C_BLOCK), halo_h=st.integers(0, 2), halo_w=st.integers(0, 2)
)
shapes = st.tuples(st.integers(1, 2), st.sampled_from([1, 8, 11]), *(st.integers(3, 6),) * 3)
slow = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def draw(shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def check(function, arrays, expected, y: PackedLayout, bound=0.0) -> None:
    """``arrays`` packed, the result packed in ``y`` and equal to the plain ``expected``."""
    result = run_kernel(function, arrays, y.shape(expected.shape))
    outside = packed(np.ones(expected.shape), y) == 0
    assert not result[outside].any()
    allowed = packed(np.broadcast_to(bound, expected.shape), y)
    assert (abs(result - packed(expected, y)) <= allowed).all()


@slow
@given(shapes, layouts, st.sampled_from([3, 8]))
def test_pack_and_unpack(shape, layout, c_block):
    layout = PackedLayout(c_block=c_block, halo_h=layout.halo_h, halo_w=layout.halo_w)
    x = draw(shape)
    check(ops.pack(shape, layout, "float32"), [x], x, layout)
    plain = run_kernel(ops.unpack(shape, layout, "float32"), [packed(x, layout)], shape)
    np.testing.assert_array_equal(plain, x)


@slow
@given(shapes, layouts, layouts, layouts)
def test_relu_and_add(shape, a, b, y):
    x0, x1 = draw(shape), draw(shape, 1)
    relu = elementwise([(shape, a)], shape, y, "float32", [("relu", (0,))])
    check(relu, [packed(x0, a)], np.maximum(x0, 0), y)
    add = elementwise([(shape, a), (shape, b)], shape, y, "float32", [("add", (0, 1))])
    check(add, [packed(x0, a), packed(x1, b)], x0 + x1, y)


@slow
@given(shapes, layouts, st.sampled_from([("multiply", (0, 0.5)), ("subtract", (0, 1.5))]))
def test_float16_and_a_number_stay_float16(shape, layout, function):
    """What is behind it reads float16. A number is rounded to it, the result once more."""
    x, (name, (_, number)) = draw(shape).astype("float16"), function
    func = elementwise([(shape, layout)], shape, layout, "float16", [function])
    result = run_kernel(func, [packed(x, layout)], layout.shape(shape))
    assert result.dtype == "float16"
    wide = x.astype("float64")
    expected = wide * number if name == "multiply" else wide - number
    inside = packed(np.ones(shape), layout) > 0
    error = abs(result - packed(expected, layout))[inside]
    assert (error <= 2.0**-10 * (1 + abs(packed(expected, layout)))[inside]).all()


@slow
@given(st.integers(1, 2), st.sampled_from([(16, 8, 5), (5, 11, 8), (3, 3, 3)]), *(layouts,) * 3)
def test_concat(batch, channels, a, b, y):
    """Parts that fill their channel blocks, and parts that end inside one."""
    parts = [(batch, c, 2, 3, 4) for c in channels]
    data = [draw(part, seed) for seed, part in enumerate(parts)]
    arrays = [packed(x, layout) for x, layout in zip(data, (a, b, a), strict=True)]
    check(ops.concat(parts, [a, b, a], y, "float32"), arrays, np.concatenate(data, 1), y)


@slow
@given(
    shapes,
    layouts,
    layouts,
    st.tuples(*(st.integers(1, 3),) * 3),
    st.tuples(*(st.integers(1, 3),) * 3),
    st.booleans(),
)
def test_max_pool3d(shape, x, y, window, stride, padded):
    padding = tuple(k // 2 if padded else 0 for k in window)
    data = draw(shape) - 3  # mostly negative: a padding of 0 instead of minus infinity would show
    pooled = functional.max_pool3d(torch.from_numpy(data), window, stride, padding).numpy()
    function = ops.max_pool3d(
        shape,
        x,
        y,
        "float32",
        out=pooled.shape,
        window=window,
        stride=stride,
        padding=(*padding, *padding),
    )
    check(function, [packed(data, x)], pooled, y)


@slow
@given(shapes, layouts, layouts, *(st.tuples(*(st.integers(1, 3),) * 3),) * 2)
def test_avg_pool3d(shape, x, y, window, stride):
    data = draw(shape)
    wide = torch.from_numpy(data).double()
    pooled = functional.avg_pool3d(wide, window, stride).numpy()
    size = functional.avg_pool3d(wide.abs(), window, stride).numpy()
    function = ops.avg_pool3d(
        shape, x, y, "float32", out=pooled.shape, window=window, stride=stride
    )
    check(function, [packed(data, x)], pooled, y, sum_bound(np.prod(window) + 1, size))


@slow
@given(shapes, layouts, layouts, st.permutations([2, 3, 4]))
def test_axes_that_change_places(shape, x, y, order):
    data, order = draw(shape), [0, 1, *order]
    func = packed_moves.permuted(shape, x, y, "float32", order=order)
    check(func, [packed(data, x)], data.transpose(order), y)
