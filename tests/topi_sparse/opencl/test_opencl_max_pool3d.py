"""opencl_max_pool3d on an OpenCL device: equal to float64's maxima, and few loads for each."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from rt3d_tvm.compile.targets import make_target
from tests.opencl import plan_of, run_on_opencl
from tests.oracle import packed
from topi_sparse.layout import PackedLayout
from topi_sparse.opencl.max_pool3d import POOL_ATTRIBUTE, OpenCLMaxPool3d, opencl_max_pool3d
from topi_sparse.opencl.work_item import item_pool_tile, work_item

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts" / "kernels"))

from cards import cost_cards

SAME = {"window": (3, 3, 3), "stride": (1, 1, 1), "padding": (1, 1, 1)}
LAYOUT = PackedLayout(c_block=4)
layouts = st.builds(
    PackedLayout, c_block=st.just(4), halo_h=st.integers(0, 2), halo_w=st.integers(0, 2)
)
sizes = st.tuples(*(st.integers(1, 3),) * 3)


def pooled(data: np.ndarray, pool: dict, *, ceil_mode: bool = False) -> np.ndarray:
    wide = torch.from_numpy(data).double()
    geometry = pool["window"], pool["stride"], pool["padding"]
    return functional.max_pool3d(wide, *geometry, ceil_mode=ceil_mode).numpy().astype(data.dtype)


@st.composite
def cases(draw) -> tuple[OpenCLMaxPool3d, np.ndarray, np.ndarray]:
    """A pool with its input and its result, both plain."""
    window = draw(sizes)
    geometry = {
        "window": window,
        "stride": draw(sizes),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in window),
    }
    shape = (draw(st.integers(1, 2)), draw(st.sampled_from([1, 4, 11])))
    shape += tuple(draw(st.integers(3, 11)) for _ in range(3))
    dtype = draw(st.sampled_from(["float32", "float16"]))
    # Below 0, so that a zero of a halo would show.
    data = np.random.default_rng(0).standard_normal(shape).astype(dtype) - np.asarray(4, dtype)
    data.flat[:: draw(st.integers(30, 300))] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    expected = pooled(data, geometry, ceil_mode=draw(st.booleans()))
    tile = tuple(draw(st.integers(1, min(4, extent))) for extent in expected.shape[2:])
    pool = OpenCLMaxPool3d(
        **geometry,
        data=shape,
        out=expected.shape,
        x=draw(layouts),
        y=draw(layouts),
        tile=tile,
        dtype=dtype,
    )
    return pool, data, expected


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_any_pool_is_exact_of_infinities_and_nan_too(case):
    pool, data, expected = case
    result = run_on_opencl(opencl_max_pool3d(pool), [packed(data, pool.x)])
    # NaN anywhere differs as well: the halo must be written, as zeros.
    np.testing.assert_array_equal(result, packed(expected, pool.y))


def same_pool(target: str, dtype: str = "float16", depth: int = 8) -> OpenCLMaxPool3d:
    """As in the branches of S3D's blocks."""
    shape = (1, 64, depth, 28, 28)
    item = work_item(make_target(target))
    tile = item_pool_tile(shape, window=SAME["window"], stride=SAME["stride"], item=item)
    return OpenCLMaxPool3d(
        **SAME, data=shape, out=shape, x=LAYOUT, y=LAYOUT, tile=tile, dtype=dtype
    )


@pytest.mark.parametrize(("target", "tile"), [("adreno", (4, 4, 1)), ("opencl", (4, 1, 4))])
@pytest.mark.parametrize(("depth", "loads"), [(8, 6 * 3 * 6), (4, 4 * 3 * 6)])
def test_a_tile_loads_what_its_windows_share_once(target, tile, depth, loads):
    """In place of 16 x 27; no plane twice where a work-item has all of them."""
    pool = same_pool(target, depth=depth)
    assert pool.tile == tile
    source = plan_of(opencl_max_pool3d(pool), target).source
    assert source.count("vload4(0, x_ptr") == loads
    assert source.count("y_ptr +") == 16
    assert "for (" not in source
    # Between values, to keep a NaN; never by where they lie.
    assert not [line for line in source.splitlines() if "select(" in line and "get_" in line]


@pytest.mark.parametrize("window", [(1, 3, 3), (2, 2, 2), (3, 3, 3), (4, 4, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_two_pairs_of_waves_fit_into_an_adreno_s_registers(window, stride):
    """Up to 32 of 4 x 32 bit, 4 of them for addresses."""
    strides, data = (stride,) * 3, (1, 8, 8, 28, 28)
    out = (1, 8, *((size - k) // stride + 1 for size, k in zip(data[2:], window, strict=True)))
    item = work_item(make_target("adreno"))
    pool = OpenCLMaxPool3d(
        data=data,
        out=out,
        window=window,
        stride=strides,
        padding=(0, 0, 0),
        x=LAYOUT,
        y=LAYOUT,
        tile=item_pool_tile(out, window=window, stride=strides, item=item),
        dtype="float16",
    )
    (card,) = cost_cards(plan_of(opencl_max_pool3d(pool), "adreno"), [])
    assert card.registers <= 4 * (32 - 4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numbers_are_converted_once(dtype):
    source = plan_of(opencl_max_pool3d(same_pool("opencl", dtype))).source
    half = dtype == "float16"
    assert source.count("convert_float4(") == (108 if half else 0)
    assert source.count("convert_half4(") == (16 if half else 0)


@pytest.mark.parametrize(
    ("window", "stride", "tile"),
    [
        ((1, 3, 3), (1, 2, 2), (4, 4, 1)),
        ((2, 2, 2), (2, 2, 2), (4, 4, 1)),
        ((3, 3, 3), (2, 2, 2), (2, 4, 1)),
        ((4, 4, 4), (4, 4, 4), (1, 2, 1)),
        ((3, 4, 5), (1, 1, 1), (2, 4, 1)),
        ((9, 9, 9), (9, 9, 9), (1, 1, 1)),
    ],
)
def test_a_tile_reads_no_more_than_is_worth_writing_out(window, stride, tile):
    item = work_item(make_target("adreno"))
    assert item_pool_tile((1, 4, 8, 8, 8), window=window, stride=stride, item=item) == tile


def test_an_axis_is_shared_out_evenly():
    item = work_item(make_target("opencl"))
    tile = item_pool_tile((1, 4, 1, 7, 9), window=(1, 3, 3), stride=(1, 1, 1), item=item)
    assert tile == (1, 1, 3)


def test_a_tile_is_no_larger_than_the_result():
    with pytest.raises(ValueError, match=r"a tile of \(9, 1, 4\) results: there are \(8, 28, 28\)"):
        dataclasses.replace(same_pool("opencl"), tile=(9, 1, 4))


def test_the_kernel_carries_its_definition():
    pool = same_pool("opencl")
    fields = json.loads(opencl_max_pool3d(pool).attrs[POOL_ATTRIBUTE])
    assert tuple(fields["tile"]) == pool.tile
    assert tuple(fields["window"]) == pool.window


def test_neighbours_of_a_gpu_read_neighbouring_vectors():
    """Of the packed layout's columns, which are next to each other."""
    (launch,) = (plan := plan_of(opencl_max_pool3d(same_pool("adreno")), "adreno")).launches
    assert launch.group_items == 128
    (card,) = cost_cards(plan, [])
    results = 64 * 8 * 28 * 28
    # 108 loads and 16 stores of 16 results.
    assert card.executed_bytes == 2 * results * (108 + 16) // 16
