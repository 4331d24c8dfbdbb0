"""Kernels on 8-bit tensors: run, and compared with sums of int64 and the float32 steps behind."""

import numpy as np
import torch
import tvm
from torch.nn import functional
from tvm.s_tir import dlight

import schedules.table
from tests.processors import runnable

# Of x86: with and without a dot product, wide and narrow.
TARGETS = runnable("x86-64-avx2", "x86-64-avx512", "host")


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
