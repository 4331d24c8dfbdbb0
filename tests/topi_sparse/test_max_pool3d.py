"""max_pool3d against torch in float64: exact, a NaN kept, and columns that are taken once."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from rt3d_tvm.compile.targets import make_target
from tests.assembly import assembly, innermost_loops
from tests.oracle import packed, run_kernel
from topi_sparse.cpu.max_pool3d import MaxPool3d, max_pool3d
from topi_sparse.cpu.register_tile import vector_unit
from topi_sparse.layout import PackedLayout

C_BLOCK = 8
layouts = st.builds(
    PackedLayout, c_block=st.just(C_BLOCK), halo_h=st.integers(0, 2), halo_w=st.integers(0, 2)
)
sizes = st.tuples(*(st.integers(1, 3),) * 3)


@st.composite
def cases(draw) -> tuple[MaxPool3d, np.ndarray, np.ndarray]:
    """A pool with its input and its result, both plain."""
    window, stride = draw(sizes), draw(sizes)
    padding = tuple(draw(st.integers(0, k // 2)) for k in window)
    shape = (draw(st.integers(1, 2)), draw(st.sampled_from([1, 8, 11])))
    shape += tuple(draw(st.integers(3, 11)) for _ in range(3))
    # Below 0, so that a zero of a halo would show.
    data = np.random.default_rng(0).standard_normal(shape).astype("float32") - np.float32(4)
    data.flat[:: draw(st.integers(20, 300))] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    wide, ceil_mode = torch.from_numpy(data).double(), draw(st.booleans())
    expected = functional.max_pool3d(wide, window, stride, padding, ceil_mode=ceil_mode).numpy()
    pool = MaxPool3d(
        window=window,
        stride=stride,
        padding=padding,
        data=shape,
        out=expected.shape,
        x=draw(layouts),
        y=draw(layouts),
    )
    return pool, data, expected.astype("float32")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_any_pool_is_exact(case):
    pool, data, expected = case
    y = packed(expected, pool.y)
    result = run_kernel(max_pool3d(pool), [packed(data, pool.x)], y.shape)
    # The halo must be written, as zeros: the result starts out as NaN.
    np.testing.assert_array_equal(result, y)


SHAPE = (1, 64, 8, 28, 28)


@pytest.mark.parametrize("name", ["x86-64-avx2", "x86-64-avx512", "cortex-a77"])
def test_a_value_of_a_column_is_read_once_for_all_windows_that_see_it(name):
    """As in the branches of S3D's blocks: 8 maxima a column and 2 a result, not 26; no memory."""
    target = make_target(name)
    layout = PackedLayout(c_block=vector_unit(target).lanes)
    window = {"window": (3, 3, 3), "stride": (1, 1, 1), "padding": (1, 1, 1)}
    pool = MaxPool3d(**window, data=SHAPE, out=SHAPE, x=layout, y=layout)
    lines = assembly(max_pool3d(pool), target)
    assert max(sum("max" in line for line in loop) for loop in innermost_loops(lines)) == 8 + 2
    assert not any("AllocWorkspace" in line for line in lines)


@pytest.mark.parametrize(
    ("width", "window", "stride", "shared"),
    [(28, 2, 2, False), (28, 3, 2, True), (28, 2, 3, False), (3, 3, 1, False), (28, 7, 2, True)],
)
def test_columns_are_shared_where_windows_do(width, window, stride, shared):
    layout, out = PackedLayout(c_block=C_BLOCK), (width - window) // stride + 1
    pool = MaxPool3d(
        window=(1, 1, window),
        stride=(1, 1, stride),
        padding=(0, 0, 0),
        data=(1, 8, 1, 1, width),
        out=(1, 8, 1, 1, out),
        x=layout,
        y=layout,
    )
    assert pool.shares_columns == shared
    x = np.random.default_rng(0).standard_normal(pool.data).astype("float32")
    result = run_kernel(max_pool3d(pool), [packed(x, layout)], layout.shape(pool.out))
    views = np.lib.stride_tricks.sliding_window_view(x, window, axis=4)[..., ::stride, :]
    np.testing.assert_array_equal(result, packed(views.max(-1), layout))
