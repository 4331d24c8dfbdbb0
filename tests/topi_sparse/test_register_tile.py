"""Default tiles: what they cost by the rule, and that the code made from them does not spill."""

import re

import numpy as np
import pytest
import tvm

from rt3d_tvm.compile.targets import make_target
from tests.assembly import assembly, innermost_loops, multiply_adds
from tests.oracle import ConvCase
from topi_sparse.cpu.kgs_conv3d import kgs_conv3d
from topi_sparse.cpu.register_tile import (
    MAX_HALF_TERMS,
    default_group,
    default_tile,
    issue_slots,
    pruning_group,
    tile_width,
    vector_unit,
)
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.layout import PackedLayout

TARGETS = ["x86-64-avx512", "x86-64-avx2", "cortex-a77", "arm64"]


def inner_loop(
    target_name: str, group: KernelGroup, width: int, dtype: str = "float32"
) -> tuple[list[str], int]:
    """The loop over kept columns in the generated code, and the multiply-adds it has to hold."""
    target = make_target(target_name)
    unit = vector_unit(target, dtype)
    layout = PackedLayout(c_block=unit.lanes)
    tile = default_tile(
        channels=64,
        kernel=(3, 3, 3),
        density=0.3,
        out_width=width,
        stride_w=1,
        c_block=unit.lanes,
        group=group,
        unit=unit,
    )
    case = ConvCase.make(
        np.ones((64, 64, 3, 3, 3), "float32"),
        seed=0,
        group=group,
        data=(1, 64, 2, 4, width),
        stride=(1, 1, 1),
        padding=(1,) * 6,
        dilation=(1, 1, 1),
        tile=tile,
        x=layout,
        y=layout,
        relu=True,
        dtype=dtype,
    )
    loops = innermost_loops(assembly(kgs_conv3d(case.conv), target))
    expected = tile.vectors(group.g_m) * tile.width * group.g_n // tile.channels
    # A small one has been unrolled, and the rest of a row has a loop of its own.
    counts = (expected, 2 * expected)
    best = max(
        loops, key=lambda loop: (len(multiply_adds(loop)) in counts, len(multiply_adds(loop)))
    )
    return best, expected


@pytest.mark.parametrize(
    ("target", "group"),
    [
        ("cortex-a77", "8x4"),
        ("cortex-a77", "4x4"),
        ("cortex-a77", "16x4"),
        ("arm64", "8x4"),
        ("x86-64-avx2", "32x4"),
        ("x86-64-avx2", "16x4"),
        ("x86-64-avx2", "8x4"),
        ("x86-64-avx2", "4x4"),
        ("x86-64-avx512", "16x4"),
        ("x86-64-avx512", "8x4"),
        ("x86-64-avx512", "4x4"),
    ],
)
@pytest.mark.parametrize("width", [28, 7])
def test_the_inner_loop_is_multiply_adds_without_spills(target, group, width):
    loop, expected = inner_loop(target, KernelGroup.parse(group), width)
    assert len(multiply_adds(loop)) in (expected, 2 * expected)
    stack = [line for line in loop if re.search(r"\[sp|%rsp", line)]
    assert stack == []
    if not target.startswith("x86"):
        # Each takes its scalar from a lane of a loaded vector: nothing is broadcast first.
        assert all(re.search(r"\.s\[\d\]", line) for line in multiply_adds(loop))
        assert not [line for line in loop if re.match(r"\t(ld1r|dup|st)", line)]


@pytest.mark.parametrize("group", ["8x4", "16x4", "4x4"])
@pytest.mark.parametrize("width", [28, 7])
def test_float16_multiplies_twice_the_lanes_by_element_without_spills(group, width):
    """The scalars of 16 bits have to lie in the lower 16 registers; the tile leaves them there."""
    group = KernelGroup.parse(group)
    loop, expected = inner_loop("cortex-a77", group, width, "float16")
    found = multiply_adds(loop)
    assert len(found) == expected
    lanes = min(group.g_m, 8)
    assert all(re.search(rf"fmla\tv\d+\.{lanes}h, v\d+\.{lanes}h, v\d+\.h\[\d\]", x) for x in found)
    assert not [line for line in loop if re.search(r"\[sp|\t(fcvt|ld1r|dup|st)", line)]


def test_a_float16_chunk_adds_up_few_terms():
    unit = vector_unit(make_target("cortex-a77"), "float16")
    for kernel, density in (((3, 3, 3), 1.0), ((3, 3, 3), 0.28), ((1, 1, 1), 1.0), ((3, 1, 1), 0)):
        tile = default_tile(
            channels=512,
            kernel=kernel,
            density=density,
            out_width=28,
            stride_w=1,
            c_block=unit.lanes,
            group=KernelGroup(g_m=8, g_n=4),
            unit=unit,
        )
        assert tile.chunk * 4 * np.prod(kernel) * density <= MAX_HALF_TERMS
        assert tile.chunk >= 2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("vectors", [1, 2, 4, 8])
@pytest.mark.parametrize("out_width", [1, 7, 14, 28, 56, 100, 112])
def test_no_other_width_covers_a_row_in_fewer_slots(target, vectors, out_width):
    """Among all that leave a register for each accumulator, weight vector and scalar in flight."""
    unit = vector_unit(make_target(target))

    def slots(width: int) -> int:
        strips = [width] * (out_width // width) + [out_width % width] * (out_width % width > 0)
        return sum(issue_slots(vectors, unit.lanes, strip, unit) for strip in strips)

    chosen = tile_width(vectors=vectors, lanes=unit.lanes, out_width=out_width, unit=unit)
    assert chosen * vectors <= unit.registers or chosen == 1
    assert all(slots(chosen) <= slots(width) for width in range(1, chosen))
    wider = [width for width in range(chosen + 1, out_width + 1) if slots(width) < slots(chosen)]
    room = 0 if unit.broadcasts else 6
    needed = 4 * vectors + 1 if unit.by_element else vectors + room
    assert all(width * vectors + needed > unit.registers for width in wider)


@pytest.mark.parametrize(
    ("target", "group"),
    [("x86-64-avx512", "32x4"), ("x86-64-avx2", "16x4"), ("cortex-a77", "8x4")],
)
def test_the_group_to_prune_in_is_also_chosen_to_run_in(target, group):
    unit = vector_unit(make_target(target))
    assert str(pruning_group(unit)) == group
    rng = np.random.default_rng(0)
    chosen = pruning_group(unit)
    keep = rng.random((128 // chosen.g_m, 16, 3, 3, 3)) < 0.3
    weight = keep.repeat(chosen.g_m, 0).repeat(4, 1)
    found = default_group(weight, out_width=28, c_block=unit.lanes, unit=unit)
    assert found == chosen


@pytest.mark.parametrize(("out_width", "group"), [(7, "32x4"), (28, "16x4")])
def test_the_rest_of_a_row_counts_for_the_group(out_width, group):
    """Dense, AVX2: 5 and 2 columns of 16 filters idle more than 3, 3 and 1 of 32."""
    unit = vector_unit(make_target("x86-64-avx2"))
    weight = np.ones((64, 64, 3, 3, 3), "float32")
    assert str(default_group(weight, out_width=out_width, c_block=8, unit=unit)) == group


def test_a_target_without_vectors_is_refused():
    bare = tvm.target.Target({"kind": "llvm", "mtriple": "riscv64-linux-gnu"})
    with pytest.raises(ValueError, match="has none of AVX-512, AVX2, SSE2 and NEON"):
        vector_unit(bare)


@pytest.mark.parametrize("target", ["arm64", "x86-64-avx512"])
def test_float16_needs_a_unit_that_has_it(target):
    with pytest.raises(ValueError, match="has no float16 arithmetic"):
        vector_unit(make_target(target), "float16")


def test_there_are_kernels_for_two_types():
    with pytest.raises(ValueError, match="not for bfloat16"):
        vector_unit(make_target("cortex-a77"), "bfloat16")
