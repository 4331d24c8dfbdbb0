"""How the default schedule of a kgs_conv3d shares the positions out among units of work."""

import math

import pytest

from rt3d_tvm.compile.kernels.candidates import cheapest
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.conv_shape import ConvShape
from schedules.cpu.kgs_conv3d import CACHE_BYTES, schedule_kgs_conv3d
from schedules.decisions import defaults, scheduled
from tests.phone_kernels import TARGET, convolution, kernel
from topi_sparse.cpu.kgs_conv3d import kgs_conv3d
from topi_sparse.cpu.register_tile import vector_unit
from topi_sparse.kernel_group import KernelGroup


def units(text: str) -> tuple[int, int, int]:
    """Units along row blocks, planes and rows."""
    products = kernel(convolution(ConvShape.parse(text), rate=2.6)).products
    sch = scheduled(kgs_conv3d(products), schedule_kgs_conv3d, TARGET)
    return tuple(outer for outer, _ in defaults(sch))


def test_a_window_along_time_keeps_the_planes_together():
    """It reads three planes for each: rows of all planes read every input once."""
    p, d, h = units("64x16x3x1x1@16x56x56")
    assert (p, d) == (1, 1) and h > 1


def test_a_window_in_the_plane_keeps_the_rows_together():
    p, d, h = units("64x16x1x3x3@32x28x28")
    assert (p, h) == (1, 1) and d > 1


def test_what_a_stride_skips_is_not_read():
    """Whatever the units, a shortcut reads each input once: the fewest units read weights least."""
    strided = units("128x64x1x1x1@16x56x56/2x2x2")
    assert math.prod(strided) == math.prod(units("128x64x1x1x1@8x28x28"))


@pytest.mark.parametrize("text", ["128x64x3x3x3@16x56x56", "64x144x3x1x1@16x56x56"])
def test_what_a_unit_reads_and_writes_again_stays_in_the_cache(text):
    """float32: the outputs, which every chunk adds to, and one chunk of the inputs."""
    shape = ConvShape.parse(text)
    products = kernel(convolution(shape, rate=2.6)).products
    assert products.chunks > 1
    _, d, h = units(text)
    planes, rows = shape.out[0] // d, shape.out[1] // h
    window = math.prod(e - 1 + k for e, k in zip((planes, rows), shape.kernel, strict=False))
    outputs = planes * rows * shape.out[2] * shape.filters
    inputs = window * shape.data[2] * products.tile.chunk * products.group.g_n
    assert 4 * (outputs + inputs) <= CACHE_BYTES


def test_there_is_work_for_every_thread():
    cores = int(make_target("cortex-a77").attrs["num-cores"])
    for text in ("64x45x3x1x1@16x56x56", "128x64x3x3x3@16x56x56", "512x921x3x1x1@2x7x7"):
        assert math.prod(units(text)) >= cores


def test_the_row_blocks_come_last_where_an_input_line_serves_few_multiply_adds():
    """With AVX-512, whose channel block is a line, and a window of one location in a plane."""

    def last(text: str, target: str) -> bool:
        unit = vector_unit(make_target(target))
        group = KernelGroup(g_m=2 * unit.lanes, g_n=4)
        conv = convolution(ConvShape.parse(text), rate=2.6)
        func = kgs_conv3d(cheapest(conv, unit, group, winograd=False).products)
        sch = scheduled(func, schedule_kgs_conv3d, make_target(target))
        innermost = sch.get(sch.get_loops(sch.get_sblock("tile"))[-1])
        return innermost.extent == -(-ConvShape.parse(text).filters // group.g_m)

    assert last("256x64x3x1x1@8x28x28", "x86-64-avx512")
    assert not last("256x64x1x3x3@8x28x28", "x86-64-avx512")
    assert not last("256x64x3x1x1@8x28x28", "x86-64-avx2")
