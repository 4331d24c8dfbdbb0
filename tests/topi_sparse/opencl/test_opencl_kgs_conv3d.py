"""opencl_kgs_conv3d against float64, on an OpenCL device of this machine."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rt3d_tvm.artifact.opencl.executor import Executor
from rt3d_tvm.artifact.opencl.plan import Plan
from rt3d_tvm.errors import InputError
from tests.opencl import device, plan_of, run_on_opencl
from tests.opencl_cases import LAYOUT, one_case
from tests.oracle import ConvCase, packed, stored_weight
from tests.random_convolutions import draw_convolution, draw_residual, draw_sizes, masked
from topi_sparse.cpu.register_tile import Tile
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.layout import PackedLayout, ceil_div
from topi_sparse.opencl.kgs_conv3d import OpenCLKGSConv3d, opencl_kgs_conv3d


@st.composite
def cases(draw) -> ConvCase:
    kernel, m, n = draw_sizes(draw)
    channels = draw(st.sampled_from([1, 4]))
    g_n = min(4, n) if channels == 1 else 4
    group = KernelGroup(g_m=draw(st.sampled_from([32, 16, 8, 4])), g_n=g_n)
    rows = draw(st.sampled_from([rows for rows in (4, 8, 16, 32) if rows <= group.g_m]))
    case = ConvCase.make(
        **draw_convolution(draw, kernel, m, n, group),
        residual=draw_residual(draw, 4),
        tile=Tile(
            lanes=draw(st.sampled_from([lanes for lanes in (4, 8, 16) if lanes <= rows]))
            if channels == 1
            else 16,
            width=draw(st.integers(1, 6)),
            chunk=ceil_div(n, group.g_n),
            channels=channels,
            by_element=channels == 1 and draw(st.booleans()),
        ),
        x=PackedLayout(c_block=4, halo_w=draw(st.integers(0, 2))),
        y=PackedLayout(c_block=4, halo_h=draw(st.integers(0, 2)), halo_w=draw(st.integers(0, 2))),
        definition=OpenCLKGSConv3d,
        rows_per_item=rows,
    )
    through = draw(st.booleans()) and case.conv.why_no_texture() is None
    return replace(case, conv=replace(case.conv, texture=through))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_any_convolution_equals_float64(case: ConvCase):
    result = run_on_opencl(opencl_kgs_conv3d(case.conv), case.arrays())
    expected, bound = case.expected()
    # NaN anywhere fails as well: the halo and the padding above M must be written, as zeros.
    np.testing.assert_array_less(
        abs(result - packed(expected, case.conv.y)) - packed(bound, case.conv.y), 1e-30
    )
    inside = packed(np.ones_like(expected), case.conv.y) == 1
    assert not result[~inside].any()


def test_planes_of_a_dilated_window_end_where_the_input_does():
    """(5 - d) // 2 locations of plane d, which a compiler has to divide as it stands."""
    group = KernelGroup(g_m=32, g_n=1)
    case = ConvCase.make(
        masked((16, 1, 3, 3, 3), scheme="kgs", density=1.0, group=group, seed=0),
        seed=0,
        group=group,
        data=(1, 1, 4, 3, 3),
        stride=(1, 1, 1),
        padding=(0, 0, 0, 2, 0, 0),
        dilation=(2, 1, 1),
        tile=Tile(lanes=4, width=1, chunk=1, by_element=True),
        x=LAYOUT,
        y=LAYOUT,
        definition=OpenCLKGSConv3d,
        rows_per_item=4,
    )
    result = run_on_opencl(opencl_kgs_conv3d(case.conv), case.arrays())
    expected, bound = case.expected()
    assert (abs(result - packed(expected, LAYOUT)) <= packed(bound, LAYOUT)).all()


def test_sums_in_float16_stay_within_its_bound():
    case = one_case(dtype="float16", accumulate="float16")
    result = run_on_opencl(opencl_kgs_conv3d(case.conv), case.arrays())
    expected, bound = case.expected()
    error = abs(result - packed(expected, case.conv.y))
    assert (error <= packed(bound, case.conv.y)).all()
    precise = one_case(dtype="float16")
    better = run_on_opencl(opencl_kgs_conv3d(precise.conv), precise.arrays())
    assert abs(better - packed(expected, case.conv.y)).max() < error.max() / 2


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_a_definition_survives_json_and_its_offsets_are_invertible(case: ConvCase):
    conv = case.conv
    assert OpenCLKGSConv3d.from_json(conv.to_json()) == conv
    weight = stored_weight(case.weight, conv)
    offsets = conv.offsets(weight.columns)
    np.testing.assert_array_equal(conv.columns(offsets, weight.pointers), weight.columns)


@pytest.mark.parametrize("weight_dtype", ["float16", "float32"])
def test_what_is_stored_in_float16_is_rounded_once_more_and_no_more(weight_dtype: str):
    """The sums are in float32, whichever the weights are stored in: the bound is that of both."""
    case = one_case(dtype="float16", weight_dtype=weight_dtype)
    assert case.arrays()[1].dtype == weight_dtype
    result = run_on_opencl(opencl_kgs_conv3d(case.conv), case.arrays())
    expected, bound = case.expected()
    assert (abs(result - packed(expected, case.conv.y)) <= packed(bound, case.conv.y)).all()


@pytest.mark.parametrize(("limit", "asks_for_stores"), [(0, True), (1 << 40, False)])
def test_lines_are_asked_for_ahead_where_they_come_from_memory(monkeypatch, limit, asks_for_stores):
    """Of windows that share positions: the next columns, and what is stored to and added."""
    monkeypatch.setattr("topi_sparse.opencl.kgs_conv3d.CACHED_BYTES", limit)
    case = one_case(Tile(lanes=16, width=12, chunk=8, channels=4), residual=LAYOUT)
    source = plan_of(opencl_kgs_conv3d(case.conv)).source
    asked = set(re.findall(r"prefetch\(\(\(__global \w+ \*\)(\w+)_ptr", source))
    assert asked == ({"x", "y", "residual"} if asks_for_stores else set())
    result = run_on_opencl(opencl_kgs_conv3d(case.conv), case.arrays())
    expected, bound = case.expected()
    assert (abs(result - packed(expected, case.conv.y)) <= packed(bound, case.conv.y)).all()


def test_nothing_is_asked_for_ahead_in_float16(monkeypatch):
    monkeypatch.setattr("topi_sparse.opencl.kgs_conv3d.CACHED_BYTES", 0)
    tile = Tile(lanes=16, width=12, chunk=8, channels=4)
    asks = {dtype: one_case(tile, dtype=dtype).conv for dtype in ("float32", "float16")}
    sources = {dtype: plan_of(opencl_kgs_conv3d(conv)).source for dtype, conv in asks.items()}
    assert "prefetch(" in sources["float32"]
    assert "prefetch(" not in sources["float16"]


def test_weights_are_stored_as_activations_or_as_sums():
    with pytest.raises(ValueError, match="weights in float32: float16, as activations, or float16"):
        one_case(dtype="float16", accumulate="float16", weight_dtype="float32")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2)])
def test_a_texture_holds_the_input_for_all_that_is_read(dtype: str, stride):
    """One kernel writes it, texel by texel; the other reads nothing of the input but texels."""
    case = one_case(dtype=dtype, texture=True, residual=LAYOUT, stride=stride)
    plan = plan_of(opencl_kgs_conv3d(case.conv), "adreno")
    (texture,) = plan.textures
    # Columns, rows and layers: the halo is in it.
    assert (texture.shape, texture.dtype) == ((16, 16, 8 * 4), dtype)
    assert plan.buffers[texture.buffer] == 16 * 16 * 8 * 4 * 4 * np.dtype(dtype).itemsize
    *_, fills, reads = plan.source.split("__kernel void ")
    kind = "h" if dtype == "float16" else "f"
    assert fills.count(f"write_image{kind}(") == fills.count("x_ptr +") == 1
    assert reads.count(f"READ_IMAGE{kind.upper()}(texture_ptr") == 4
    assert "x_ptr" not in reads
    assert Plan.from_text(plan.to_text()) == plan
    result = run_on_opencl(opencl_kgs_conv3d(case.conv), case.arrays(), "adreno")
    expected, bound = case.expected()
    assert (abs(result - packed(expected, case.conv.y)) <= packed(bound, case.conv.y)).all()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"data": (3, 32, 300, 14, 14)}, "7200 planes; a texture has at most 2048 layers"),
        ({"data": (1, 32, 1, 9000, 14)}, "planes are of 9002x16; a texture's of at most 8192"),
        ({"dilation": (1, 1, 200)}, "reaches 400 rows or columns far; at most 255 is accepted"),
    ],
)
def test_an_input_that_fits_no_texture_says_why(changed, says: str):
    with pytest.raises(ValueError, match=says):
        replace(one_case().conv, **changed, texture=True)


@pytest.mark.parametrize(
    ("image_support", "layers", "says"),
    [
        (False, 0, "Old GPU has no textures, and kernels read one; tune for that"),
        (True, 16, "16 rows and 32 layers; Old GPU allows 8192 columns, 8192 rows and 16 layers"),
    ],
)
def test_a_device_without_such_textures_is_refused(image_support, layers, says: str):
    device(half=False)  # without pyopencl nothing is refused for its textures
    plan = plan_of(opencl_kgs_conv3d(one_case(texture=True).conv))
    gpu = SimpleNamespace(
        name="Old GPU ",
        extensions="",
        image_support=image_support,
        image2d_max_width=8192,
        image2d_max_height=8192,
        image_max_array_size=layers,
    )
    with pytest.raises(InputError, match=says):
        Executor(plan, [], gpu)


@pytest.mark.parametrize("target", ["opencl", "adreno"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_source_moves_vectors_and_nothing_through_local_memory(target: str, dtype: str):
    plan = plan_of(opencl_kgs_conv3d(one_case(dtype=dtype).conv), target)
    assert "__local" not in plan.source
    _, loop = re.split(
        r"for \(int \w+ = 0; \w+ < \(", plan.source.split("_kernel_1(")[-1], maxsplit=1
    )
    # 4 positions of 4 channels, 4 channels of 8 weights; nothing is loaded a number at a time.
    assert loop.count("x_ptr +") == 4
    assert len(re.findall(r"vload8\(0, blocks_ptr", loop)) == 4
    assert not re.search(r"(x|blocks)_ptr\[", loop)


def test_channels_that_share_the_lanes_are_loaded_once_for_all_filters():
    """One vector for each position, two of weights, and their products: nothing taken apart."""
    tile = Tile(lanes=16, width=4, chunk=8, channels=4)
    plan = plan_of(opencl_kgs_conv3d(one_case(tile).conv))
    kernel = plan.source.split("_kernel_1(")[-1]
    loop = re.split(r"for \(int \w+ = 0; \w+ < \(", kernel, maxsplit=1)[1].split("\n    }\n")[0]
    assert loop.count("x_ptr +") == 4
    assert len(re.findall(r"vload16\(0, blocks_ptr", loop)) == 2
    assert loop.count(" * v_") == 8
    assert not re.search(r"(x|blocks)_ptr\[", loop)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numbers_that_are_broadcast_are_each_loaded_once_for_all_filters(dtype: str):
    """4 positions x 4 channels, and two vectors of weights for each channel."""
    conv = replace(
        one_case(Tile(lanes=16, width=4, chunk=8), dtype=dtype).conv,
        group=KernelGroup(g_m=32, g_n=4),
        rows_per_item=32,
    )
    kernel = plan_of(opencl_kgs_conv3d(conv)).source.split("_kernel_1(")[-1]
    loop = re.split(r"for \(int \w+ = 0; \w+ < \(", kernel, maxsplit=1)[1].split("\n    }\n")[0]
    assert loop.count("x_ptr[") == 16
    assert len(re.findall(r"vload16\(0, blocks_ptr", loop)) == 8
    assert loop.count(" * v_") == 32


def test_every_layer_has_enough_work_items_for_a_wave():
    plan = plan_of(opencl_kgs_conv3d(one_case().conv), "adreno")
    assert all(64 <= launch.group_items <= 256 for launch in plan.launches[1:])
