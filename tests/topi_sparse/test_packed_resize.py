"""resize3d of packed tensors against ONNX Runtime: both methods, all coordinates, tails, halos."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.oracle import packed, run_kernel
from topi_sparse import packed_resize
from topi_sparse.layout import PackedLayout
from topi_sparse.packed_resize import resize3d

layouts = st.builds(
    PackedLayout, c_block=st.just(8), halo_h=st.integers(0, 1), halo_w=st.integers(0, 2)
)


def expected(x: np.ndarray, size, *, method: str, mode: str, rounding: str) -> np.ndarray:
    """What ONNX Runtime makes of it."""
    attributes = {"mode": "nearest" if method == packed_resize.NEAREST else "linear"}
    attributes |= {"coordinate_transformation_mode": mode, "nearest_mode": rounding}
    sizes = helper.make_tensor("sizes", TensorProto.INT64, (5,), [*x.shape[:2], *size])
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [sizes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([1, 8, 11]),
    st.tuples(*[st.integers(1, 6)] * 3),
    st.tuples(*[st.integers(1, 3)] * 3),
    st.sampled_from([packed_resize.NEAREST, packed_resize.LINEAR]),
    st.sampled_from(packed_resize.MODES),
    st.sampled_from(packed_resize.ROUNDINGS),
    layouts,
    layouts,
)
def test_any_resize_is_that_of_onnx_runtime(channels, sizes, scales, method, mode, rounding, x, y):
    if method == packed_resize.LINEAR:  # any ratio; nearest ones tie where floats decide
        scales = tuple(
            scale + 0.5 * (size % 2 == 0) for scale, size in zip(scales, sizes, strict=True)
        )
    size = [int(n * scale) for n, scale in zip(sizes, scales, strict=True)]
    if mode != "half_pixel" and 1 in size and mode != "asymmetric":
        return  # one place has a rule of its own, which the pass leaves to others
    data = (1, channels, *sizes)
    values = np.random.default_rng(0).standard_normal(data).astype("float32")
    wide = expected(values, size, method=method, mode=mode, rounding=rounding)
    options = {"out": wide.shape, "method": method, "mode": mode, "rounding": rounding}
    function = resize3d(data, x, y, "float32", **options)
    result = run_kernel(function, [packed(values, x)], y.shape(wide.shape))
    # Of an axis: a place below 6 in float32, whose fraction is times a difference of two values,
    # and three roundings of their sum.
    of_axis = (6 * 2 + 3) * 2.0**-24 * abs(values).max()
    limit = 0 if method == packed_resize.NEAREST else 3 * of_axis
    assert abs(result - packed(wide, y)).max() <= limit  # NaN where nothing was written


@pytest.mark.parametrize("rounding", packed_resize.ROUNDINGS)
def test_ties_go_where_the_rounding_says(rounding):
    """A ratio of two reads half way between two places, at each odd place."""
    layout = PackedLayout(c_block=8)
    values = np.arange(4, dtype="float32").reshape(1, 1, 1, 1, 4) + np.zeros((1, 8, 1, 1, 1), "f4")
    options = {"method": packed_resize.NEAREST, "mode": "asymmetric", "rounding": rounding}
    function = resize3d(values.shape, layout, layout, "float32", out=(1, 8, 1, 1, 8), **options)
    result = run_kernel(function, [packed(values, layout)], layout.shape((1, 8, 1, 1, 8)))
    up = rounding in ("ceil", "round_prefer_ceil")
    places = [0, 1, 1, 2, 2, 3, 3, 3] if up else [0, 0, 1, 1, 2, 2, 3, 3]
    assert result[0, 0, 0, 0, :, 0].tolist() == places
