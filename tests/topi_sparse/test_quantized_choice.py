"""The kernel group and tile of a quantised convolution: what the counted slots decide."""

import numpy as np
import pytest

from rt3d_tvm.compile.targets import make_target
from topi_sparse.cpu.dot_unit import dot_unit
from topi_sparse.cpu.quantized_choice import quantized_group, quantized_tile_of, tile_width
from topi_sparse.kernel_group import KernelGroup

VNNI, DOTPROD, I8MM = (
    dot_unit(make_target(name)) for name in ("x86-64-avx512-vnni", "cortex-a77", "arm64-i8mm")
)


def weight(height: int, rate: float) -> np.ndarray:
    """int8 of 64x64x3x3x3, of which one in ``rate`` groups of ``height`` filters is kept."""
    rng = np.random.default_rng(0)
    keep = rng.random((64 // height, 16, 3, 3, 3)) < 1 / rate
    kept = keep.repeat(height, 0).repeat(4, 1)
    return (kept * rng.integers(1, 128, kept.shape)).astype("int8")


def test_instructions_of_each_target():
    names = {
        "x86-64-avx512-vnni": ("vpdpbusd", 16, "uint8"),
        "x86-64-avx512": ("pmaddubsw", 16, "uint8"),
        "x86-64-avx2-vnni": ("vpdpbusd", 8, "uint8"),
        "x86-64-avx2": ("pmaddubsw", 8, "uint8"),
        "cortex-a77": ("sdot", 4, "int8"),
        "arm64-dotprod": ("sdot", 4, "int8"),
        "arm64-i8mm": ("smmla", 4, "int8"),
        "arm64": ("smull", 4, "int8"),
    }
    found = {name: dot_unit(make_target(name)) for name in names}
    assert {n: (u.instruction, u.lanes, u.stored) for n, u in found.items()} == names


def test_a_dense_weight_takes_the_group_whose_inputs_serve_most_filters():
    assert quantized_group(weight(4, 1.0), out_width=28, unit=VNNI).g_m == 32


@pytest.mark.parametrize("height", [16, 32])
def test_a_pruned_weight_keeps_its_group_where_others_would_multiply_zeros(height):
    found = quantized_group(weight(height, 8.0), out_width=28, unit=VNNI)
    assert found == KernelGroup(g_m=height, g_n=4)


def test_sums_inputs_and_weights_fit_the_registers():
    for unit in (VNNI, DOTPROD):
        for rows in (4, 8, 16, 32):
            tile = quantized_tile_of(
                KernelGroup(g_m=rows, g_n=4), channels=64, out_width=56, unit=unit
            )
            vectors = rows // tile.lanes
            inputs = -(-tile.width // 4) if unit.by_element else 1
            assert vectors * tile.width + vectors + inputs <= unit.registers


def test_sums_inputs_and_weights_of_matrices_fit_the_registers():
    for rows in (4, 8, 16):
        tile = quantized_tile_of(KernelGroup(g_m=rows, g_n=4), channels=64, out_width=56, unit=I8MM)
        sums = rows // 2 * -(-tile.width // 2)
        # The weights of two kept columns, the inputs of one place and those they are made of.
        assert sums + rows // 2 + 1 + 2 <= I8MM.registers
        assert tile.width >= {4: 14, 8: 8, 16: 4}[rows]


def test_a_row_of_14_columns_is_one_tile():
    assert tile_width(16, 14, VNNI) == tile_width(32, 14, VNNI) == 14
