"""Winograd's convolution against float64: geometry, edges of tiles, pruned groups."""

import dataclasses

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.oracle import UNIT_ROUNDOFF, activated, conv3d_float64, packed, run_kernel, sum_bound
from topi_sparse.cpu.kgs_conv3d import kgs_conv3d
from topi_sparse.cpu.register_tile import Tile
from topi_sparse.cpu.winograd import (
    INPUTS,
    KERNEL,
    OUTPUTS,
    POINTS,
    WinogradConv3d,
    transformed_weights,
    transforms,
    winograd_input,
    winograd_output,
)
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.layout import PackedLayout

# Roundings on the way of one value besides the sum over channels: the weight is rounded once; the
# input and the output go through two multiplications by a matrix of 6 columns.
ROUNDINGS = 1 + 2 * INPUTS + 2 * INPUTS


def magnitude(conv: WinogradConv3d, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The sum of the absolute values of all that is added up for each output, in float64."""
    matrices = transforms()
    a, g, b = abs(matrices.output), abs(matrices.weight), abs(matrices.input)
    rows, columns = conv.tiles
    front, top, left, back, bottom, right = conv.padding
    beyond = [
        tiles * OUTPUTS + KERNEL - 1 - size - before - after
        for tiles, size, before, after in zip(
            conv.tiles, x.shape[3:], (top, left), (bottom, right), strict=True
        )
    ]
    wide = np.pad(
        abs(x).astype("float64"),
        ((0, 0), (0, 0), (front, back), (top, bottom + beyond[0]), (left, right + beyond[1])),
    )
    patches = np.lib.stride_tricks.sliding_window_view(wide, (INPUTS, INPUTS), axis=(3, 4))
    patches = patches[:, :, :, ::OUTPUTS, ::OUTPUTS]
    v = np.einsum("ai,zndrcij,bj->zndrcab", b, patches, b)
    u = np.einsum("ai,mnkij,bj->mnkab", g, abs(weight).astype("float64"), g)
    total = 0
    for k in range(conv.kernel[0]):
        first = k * conv.dilation[0]
        planes = v[:, :, first : first + (conv.out[2] - 1) * conv.stride[0] + 1 : conv.stride[0]]
        total = total + np.einsum("mnab,zndrcab->zmdrcab", u[:, :, k], planes)
    y = np.einsum("ia,zmdrcab,jb->zmdricj", a, total, a)
    b_, m_, d_ = y.shape[:3]
    whole = y.reshape(b_, m_, d_, rows * OUTPUTS, columns * OUTPUTS)
    return whole[..., : conv.out[3], : conv.out[4]]


def run(conv: WinogradConv3d, x, weight, bias, residual, *, group: KernelGroup, tile: Tile):
    """The three kernels, one after the other: the packed result."""
    points = transformed_weights(weight, group=group, chunk=tile.chunk, row_multiple=conv.y.c_block)
    products = conv.products(group=group, tile=tile, weight=points[0])
    v = run_kernel(winograd_input(conv), [packed(x, conv.x)], products.x.shape(products.data))
    arrays = [
        v,
        np.concatenate([point.blocks for point in points]),
        products.offsets(points[0].columns),
        points[0].pointers,
        np.zeros(products.stored_filters, "float32"),
    ]
    u = run_kernel(kgs_conv3d(products), arrays, products.y.shape(products.out))
    wide = np.zeros(conv.y.shape(conv.out)[1] * conv.y.c_block, "float32")
    wide[: conv.filters] = bias
    arrays = [u, wide, *([] if residual is None else [packed(residual, conv.residual)])]
    return run_kernel(winograd_output(conv), arrays, conv.y.shape(conv.out))


@st.composite
def cases(draw) -> tuple[WinogradConv3d, float]:
    lanes = draw(st.sampled_from([4, 8, 16]))
    pads = st.integers(0, 2)
    kernel_d = draw(st.integers(1, 3))
    conv = WinogradConv3d(
        data=(
            draw(st.integers(1, 2)),
            draw(st.sampled_from([4, 5, 20, 33])),
            draw(st.integers(3, 5)),
            draw(st.integers(3, 14)),
            draw(st.integers(3, 14)),
        ),
        filters=draw(st.sampled_from([1, 5, 16, 37])),
        kernel=(kernel_d, KERNEL, KERNEL),
        stride=(draw(st.integers(1, 2)), 1, 1),
        dilation=(1, 1, 1),
        padding=tuple(draw(pads) if axis or kernel_d > 1 else 0 for axis in (0, 1, 2) * 2),
        x=PackedLayout(c_block=lanes, halo_w=draw(st.integers(0, 3))),
        y=PackedLayout(c_block=lanes, halo_h=draw(pads), halo_w=draw(pads)),
        residual=draw(st.none() | st.just(PackedLayout(c_block=lanes, halo_w=1))),
        relu=draw(st.booleans()),
        ceiling=draw(st.sampled_from([None, 0.5])),
    )
    conv = dataclasses.replace(conv, x=conv.needed_halo().covering(conv.x))
    return conv, draw(st.sampled_from([1.0, 0.4]))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases(), seed=st.integers(0, 99))
def test_it_is_the_convolution(case, seed):
    conv, density = case
    rng = np.random.default_rng(seed)
    group = KernelGroup(g_m=8, g_n=4)
    shape = (conv.filters, conv.data[1], *conv.kernel)
    weight = rng.standard_normal(shape).astype("float32")
    kept = rng.random((-(-shape[0] // 8), -(-shape[1] // 4), 1, 1, 1)) <= density
    weight *= kept.repeat(8, 0).repeat(4, 1)[: shape[0], : shape[1]]
    x = rng.standard_normal(conv.data).astype("float32")
    bias = rng.standard_normal(conv.filters).astype("float32")
    residual = rng.standard_normal(conv.out).astype("float32") if conv.residual else None
    tile = Tile(lanes=min(8, conv.y.c_block), width=5, chunk=4)
    y = run(conv, x, weight, bias, residual, group=group, tile=tile)
    geometry = {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
    }
    expected = conv3d_float64(x, weight, bias, **geometry)
    size = magnitude(conv, x, weight) + abs(bias)[:, None, None, None]
    if residual is not None:
        expected, size = expected + residual, size + abs(residual)
    expected = activated(expected, conv)
    bound = sum_bound(shape[1] * shape[2] + ROUNDINGS + 2, size)
    assert np.all(abs(y - packed(expected, conv.y)) <= packed(bound, conv.y))


def test_it_costs_few_digits():
    """The bound above is for the worst case; random rounding leaves some 30 roundoffs of 128."""
    conv = WinogradConv3d(
        data=(1, 64, 3, 8, 8),
        filters=8,
        kernel=(3, KERNEL, KERNEL),
        stride=(1, 1, 1),
        dilation=(1, 1, 1),
        padding=(1,) * 6,
        x=PackedLayout(c_block=8, halo_h=1, halo_w=1),
        y=PackedLayout(c_block=8),
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal(conv.data).astype("float32")
    weight = rng.standard_normal((8, 64, 3, 3, 3)).astype("float32")
    group, tile = KernelGroup(g_m=8, g_n=4), Tile(lanes=8, width=4, chunk=16)
    y = run(conv, x, weight, np.zeros(8, "float32"), None, group=group, tile=tile)
    expected = packed(
        conv3d_float64(x, weight, None, stride=(1, 1, 1), padding=conv.padding, dilation=(1, 1, 1)),
        conv.y,
    )
    assert abs(y - expected).max() < 128 * UNIT_ROUNDOFF * abs(expected).max()


def test_the_transforms_are_exact_in_float32_but_for_the_weights():
    matrices = transforms()
    for matrix in (matrices.output, matrices.input):
        assert np.array_equal(matrix, matrix.astype("float32"))
    rng = np.random.default_rng(1)
    x, g = rng.standard_normal(INPUTS), rng.standard_normal(KERNEL)
    y = matrices.output @ ((matrices.weight @ g) * (matrices.input @ x))
    np.testing.assert_allclose(y, np.correlate(x, g, "valid"), rtol=0, atol=1e-14)


def test_a_group_pruned_whole_is_not_stored():
    weight = np.zeros((16, 8, 1, 3, 3), "float32")
    weight[:8, :4, 0, 1, 1] = 1.0
    points = transformed_weights(weight, group=KernelGroup(g_m=8, g_n=4), chunk=2, row_multiple=8)
    assert len(points) == POINTS
    assert {point.kept for point in points} == {1}


@pytest.mark.parametrize("kind", [winograd_input, winograd_output])
def test_the_definition_survives_the_attribute(kind):
    conv = WinogradConv3d(
        data=(1, 8, 2, 5, 5),
        filters=8,
        kernel=(1, KERNEL, KERNEL),
        stride=(1, 1, 1),
        dilation=(1, 1, 1),
        padding=(0, 1, 1, 0, 1, 1),
        x=PackedLayout(c_block=8, halo_h=3, halo_w=3),
        y=PackedLayout(c_block=8),
        residual=PackedLayout(c_block=8, halo_w=2),
    )
    function = kind(conv)
    assert isinstance(function, tvm.tirx.PrimFunc)
    assert WinogradConv3d.from_json(function.attrs[kind.__name__]) == conv
