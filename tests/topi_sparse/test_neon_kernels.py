"""The kernels that a phone's CPU gets for the convolutions of the three models, pruned by KGS."""

import re
from dataclasses import replace

import numpy as np
import pytest

from rt3d_tvm.conv_shape import ConvShape
from rt3d_tvm.models import CLIP_MODELS, MODELS
from rt3d_tvm.models.conv_shapes import conv_shapes
from tests.assembly import assembly, innermost_loops, multiply_adds
from tests.phone_kernels import GROUP, TARGET, convolution, kernel
from topi_sparse.cpu.kgs_conv3d import kgs_conv3d

# One of each kind of window and of plane; all of them are with the slow tests.
SOME = (
    "64x3x3x3x3@16x112x112",
    "256x256x3x3x3@8x28x28",
    "144x64x1x3x3@16x56x56",
    "64x45x3x1x1@16x56x56",
    "921x512x1x3x3@2x7x7",
    "256x128x1x1x1@8x28x28/2x2x2",
)


def check_loops(shape: ConvShape, rate: float) -> None:
    """Multiply-adds that take their scalar from a lane, in loops that leave the stack alone."""
    products = kernel(convolution(shape, rate)).products
    loops = [x for x in innermost_loops(assembly(kgs_conv3d(products), TARGET)) if multiply_adds(x)]
    # A tile of g_n channels is in one of them; a narrower strip and the last rows in others.
    vectors = GROUP.g_m // products.tile.lanes
    whole = vectors * min(products.tile.width, products.out[4]) * products.group.g_n
    assert whole in [len(multiply_adds(loop)) for loop in loops]
    for loop in loops:
        assert not [line for line in loop if re.search(r"\[sp", line)]
        by_element = [line for line in multiply_adds(loop) if re.search(r"\.s\[\d\]$", line)]
        assert products.group.g_n < GROUP.g_n or by_element == multiply_adds(loop)


@pytest.mark.parametrize("text", SOME)
def test_no_inner_loop_spills(text):
    check_loops(ConvShape.parse(text), rate=2.6)


@pytest.mark.full
@pytest.mark.parametrize("name", CLIP_MODELS)
def test_no_inner_loop_of_a_model_spills(name):
    for shape in conv_shapes(name):
        check_loops(shape, MODELS[name].paper_rate)


@pytest.mark.parametrize("name", CLIP_MODELS)
def test_hardly_more_is_issued_than_kept(name):
    """Rows of unequal length cost nothing; filling up the last row block costs less than 3 %."""
    issued = kept = 0
    for shape, count in conv_shapes(name).items():
        conv = convolution(shape, MODELS[name].paper_rate)
        issued += count * kernel(conv).issued_macs
        kept += count * np.count_nonzero(conv.weight) * np.prod(conv.out[2:])
    assert 1 <= issued / kept <= 1.03


def test_the_lines_of_a_tile_are_asked_for_before_its_sums():
    """One hint for each 64 bytes that the tile writes, and all of them ahead of the inner loop."""
    products = kernel(convolution(ConvShape.parse("64x64x3x1x1@4x8x8"), rate=2.6)).products
    lines = assembly(kgs_conv3d(products), TARGET)
    hints = [i for i, line in enumerate(lines) if re.search(r"\tprfm\tpstl1keep", line)]
    sums = [i for i, line in enumerate(lines) if re.search(r"\tfmla\t", line)]
    a_line = 64 // (4 * products.y.c_block)
    assert len(hints) == GROUP.g_m // products.y.c_block * -(-products.tile.width // a_line)
    assert max(hints) < min(sums)


def test_the_lines_of_what_is_added_are_asked_for_as_well():
    conv = replace(convolution(ConvShape.parse("64x64x1x3x3@4x8x8"), rate=2.6), residual=True)
    products = kernel(conv).products
    assert products.chunks == 1
    lines = assembly(kgs_conv3d(products), TARGET)
    written, added = (
        [i for i, line in enumerate(lines) if f"\tprfm\t{kind}l1keep" in line]
        for kind in ("pst", "pld")
    )
    assert len(added) == len(written) > 0
    assert max(added) < min(i for i, line in enumerate(lines) if re.search(r"\tfmla\t", line))
