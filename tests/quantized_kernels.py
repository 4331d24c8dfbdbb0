"""Kernels on 8-bit tensors: run, and compared with sums of int64 and the float32 steps behind."""

from dataclasses import replace

import numpy as np
import torch
import tvm
from torch.nn import functional
from tvm.s_tir import dlight

import schedules.table
from tests.processors import runnable
from topi_sparse.cpu.quantized_choice import quantized_tile_of
from topi_sparse.cpu.quantized_kgs_conv3d import QuantizedKGSConv3d
from topi_sparse.cpu.quantized_sums import QuantizedAdd
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import PackedLayout

# Of x86: with and without a dot product, wide and narrow.
TARGETS = runnable("x86-64-avx2", "x86-64-avx512", "host")


def pruned(rng, shape, *, density, group):
    """Random int8 weights whose kernel groups are kept with that probability at each location."""
    m, n, *kernel = shape
    keep = rng.random((-(-m // group.g_m), -(-n // group.g_n), *kernel)) < density
    keep = keep.repeat(group.g_m, 0).repeat(group.g_n, 1)[:m, :n]
    return (rng.integers(-127, 128, shape) * keep).astype("int8")


def kernel_of(unit, weight, stored, *, group, tile, zero, y_zero, residual, real, **geometry):
    """The definition; where a residual is added, the scales of both are these."""
    limits, n = np.iinfo(unit.stored), weight.shape[1]
    y = PackedLayout(c_block=unit.block, fill=0 if real else y_zero, halo_w=1)
    added = QuantizedAdd(
        low=-90, high=100, step=0.31, residual_step=0.17, residual_zero=y_zero, per_step=2.9
    )
    conv = QuantizedKGSConv3d(
        filters=weight.shape[0],
        kernel=weight.shape[2:],
        x=PackedLayout(c_block=unit.block if n >= 4 else 4, fill=zero),
        y=y,
        group=group,
        kept=stored.kept,
        weights=stored.blocks.size,
        tile=tile,
        instruction=unit.instruction,
        dtype=unit.stored,
        result="float32" if real else unit.stored,
        low=int(limits.min) - y_zero,
        high=int(limits.max) - y_zero,
        residual=y if residual and not real else None,
        added=added if residual and not real else None,
        **geometry,
    )
    return replace(conv, x=conv.needed_halo())


def stored_as(unit, weight, group, *, out_width):
    """The tile for rows of such a width, and the weight as the kernel reads it."""
    tile = quantized_tile_of(group, channels=weight.shape[1], out_width=out_width, unit=unit)
    stored = KGSWeight.from_dense(
        weight,
        group=group,
        chunk=tile.chunk,
        row_multiple=unit.block,
        **unit.products.packing,
    )
    return tile, stored


def exact_sums(conv, x, weight, bias, *, groups=1):
    """The sums in float64, which holds them all exactly; (B, M, D, H, W) as int64."""
    front, top, left, back, bottom, right = conv.padding
    centred = torch.from_numpy(x.astype("float64") - conv.x.fill)
    sums = functional.conv3d(
        functional.pad(centred, (left, right, top, bottom, front, back)),
        torch.from_numpy(weight.astype("float64")),
        torch.from_numpy(bias.astype("float64")),
        stride=conv.stride,
        dilation=conv.dilation,
        groups=groups,
    )
    assert sums.abs().max() < 2**31
    return sums.numpy().astype("int64")


def expected(conv, sums, scale, residual):
    """What ONNX's operators make of the sums, in float32 as ONNX Runtime computes them."""
    value = sums.astype("float32") * scale.reshape(1, -1, 1, 1, 1)
    if conv.is_real:
        value = np.maximum(value, 0) if conv.relu else value
        return value if conv.ceiling is None else np.minimum(value, np.float32(conv.ceiling))
    if conv.added is not None:
        added = conv.added
        value = np.rint(np.clip(value, added.low, added.high)) * np.float32(added.step)
        other = residual.astype("int32") - added.residual_zero
        value = value + other.astype("float32") * np.float32(added.residual_step)
        value = value * np.float32(added.per_step)
    return np.rint(np.clip(value, conv.low, conv.high)).astype("int64") + conv.y.fill


def run(conv, args, target):
    mod = tvm.IRModule({"main": conv.prim_func().with_attr("global_symbol", "main")})
    with target:
        mod = dlight.ApplyDefaultSchedule(*schedules.table.rules("cpu"))(mod)
    tensors = [tvm.runtime.tensor(arg) for arg in args]
    tvm.compile(mod, target=target)["main"](*tensors)
    return tensors[-1].numpy()


def compare(conv, got, wanted):
    if conv.is_real:  # one rounding of the sum to float32, one of the product
        np.testing.assert_allclose(got, wanted, rtol=2 * 2.0**-23)
    elif conv.added is None:
        np.testing.assert_array_equal(got, wanted)
    else:  # a multiply-add rounds once where two operations round twice: of ties one in a thousand
        off = abs(got - wanted)
        assert off.max(initial=0) <= 1
        assert np.count_nonzero(off) <= max(2, off.size // 1000)
