"""kgs_conv2plus1d on 8-bit tensors against sums of int64, both convolutions one after the other."""

from dataclasses import replace

import numpy as np
import pytest

from rt3d_tvm.compile.targets import make_target
from tests.quantized_kernels import TARGETS, compare, exact_sums, expected, run
from topi_sparse.cpu.dot_unit import dot_unit
from topi_sparse.cpu.kgs_conv2plus1d import KGSConv2Plus1D, why_not_paired
from topi_sparse.cpu.quantized_choice import quantized_tile_of
from topi_sparse.cpu.quantized_kgs_conv3d import QuantizedKGSConv3d
from topi_sparse.cpu.quantized_sums import QuantizedAdd
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import PackedLayout

GROUP = KernelGroup(g_m=8, g_n=4)
ADDED = {"low": -90, "high": 100, "step": 0.31, "residual_step": 0.17, "per_step": 2.9}


class Case:
    """One of the two: its definition, and what it is given beside its input."""

    def __init__(self, unit, data, filters, kernel, *, zeros, added=False, **geometry):
        rng, limits = np.random.default_rng(filters), np.iinfo(unit.stored)
        shape = (filters, data[1], *kernel)
        self.weight = (rng.integers(-127, 128, shape) * (rng.random(shape) < 0.7)).astype("int8")
        tile = quantized_tile_of(GROUP, channels=data[1], out_width=data[4], unit=unit)
        self.stored = KGSWeight.from_dense(
            self.weight,
            group=GROUP,
            chunk=tile.chunk,
            row_multiple=unit.block,
            **unit.products.packing,
        )
        zero, y_zero = (each + int(limits.min) for each in zeros)
        y = PackedLayout(c_block=unit.block, fill=y_zero)
        self.conv = QuantizedKGSConv3d(
            data=data,
            filters=filters,
            kernel=kernel,
            dilation=(1, 1, 1),
            relu=True,
            group=GROUP,
            kept=self.stored.kept,
            weights=self.stored.blocks.size,
            tile=tile,
            x=PackedLayout(c_block=unit.block, fill=zero),
            y=y,
            residual=y if added else None,
            added=QuantizedAdd(residual_zero=y_zero, **ADDED) if added else None,
            instruction=unit.instruction,
            dtype=unit.stored,
            result=unit.stored,
            low=0,
            high=int(limits.max) - y_zero,
            **geometry,
        )
        self.conv = replace(self.conv, x=self.conv.needed_halo())
        self.bias = rng.integers(-1000, 1000, filters).astype("int32")

    def of(self, x, residual):
        """What it gives for plain values, and the scales by which that fills its type."""
        sums = exact_sums(self.conv, x, self.weight, self.bias)
        scale = np.full(self.conv.filters, 200 / max(abs(sums).max(), 1), "float32")
        return expected(self.conv, sums, scale, residual), scale

    def arguments(self, conv, scale):
        """What the kernel is given behind the input, for a layout of that."""
        total, planes = conv.bias_and_planes(self.weight, self.bias)
        padded = np.zeros(conv.stored_filters, "float32")
        padded[: conv.filters] = scale
        stored = self.stored
        args = [stored.blocks, conv.offsets(stored.columns), stored.pointers, total, padded]
        return args if planes is None else [*args, planes]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("stride", "added"), [(1, True), (2, False)])
def test_a_pair_gives_what_two_convolutions_give(target, stride, added):
    made_for = make_target(target)
    unit = dot_unit(made_for)
    spatial = Case(
        unit,
        (2, 5, 5, 6, 7),
        21,
        (1, 3, 3),
        zeros=(77, 9),
        stride=(1, 2, 1),
        padding=(0, 1, 1, 0, 1, 1),
    )
    second = {"stride": (stride, 1, 1), "padding": (1, 0, 0, 1, 0, 0), "added": added}
    temporal = Case(unit, spatial.conv.out, 12, (3, 1, 1), zeros=(9, 3), **second)
    assert why_not_paired(spatial.conv, temporal.conv) is None
    pair = KGSConv2Plus1D(spatial=spatial.conv, temporal=temporal.conv)
    assert KGSConv2Plus1D.from_json(pair.to_json()) == pair
    assert [blocks for _, blocks in pair.weighted] == [1, 6]
    rng, limits = np.random.default_rng(0), np.iinfo(unit.stored)
    x, other = (
        rng.integers(limits.min, limits.max + 1, shape).astype(unit.stored)
        for shape in (spatial.conv.data, temporal.conv.out)
    )
    between, first_scale = spatial.of(x, None)
    wanted, second_scale = temporal.of(between, other)
    args = [pair.x.packed(x), *spatial.arguments(spatial.conv, first_scale)]
    args += temporal.arguments(pair.from_band, second_scale)
    args += [pair.y.packed(other)] if added else []
    result = run(pair, [*args, np.zeros(pair.y.shape(temporal.conv.out), unit.stored)], made_for)
    compare(temporal.conv, pair.y.unpacked(result, temporal.conv.out), wanted)
    assert len(np.unique(wanted)) > 30


def test_a_float32_result_is_not_what_an_8_bit_kernel_reads():
    unit = dot_unit(make_target("host"))
    plain = {"stride": (1, 1, 1), "padding": (0,) * 6, "zeros": (0, 0)}
    spatial = Case(unit, (1, 5, 5, 6, 7), 21, (1, 1, 1), **plain).conv
    temporal = Case(unit, spatial.out, 12, (3, 1, 1), **plain).conv
    assert why_not_paired(spatial, temporal) is None
    real = replace(spatial, result="float32")
    assert why_not_paired(real, temporal) == "the first gives float32, the second computes in uint8"
