"""quantized_kgs_conv3d against sums of int64 and the float32 steps that its docstring states."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.tirx.script.builder import ir as T

from rt3d_tvm.compile.targets import make_target
from tests.quantized_kernels import (
    TARGETS,
    compare,
    exact_sums,
    expected,
    kernel_of,
    pruned,
    run,
    stored_as,
)
from tests.random_convolutions import draw_sizes
from topi_sparse.cpu.dot_unit import INSTRUCTIONS, dot_unit
from topi_sparse.cpu.quantized_choice import quantized_group
from topi_sparse.kernel_group import KernelGroup


def check(
    target_name,
    *,
    weight,
    data,
    group=None,
    zero,
    y_zero,
    seed=0,
    extreme=False,
    unit=None,
    **options,
):
    """Compile and run one kernel and compare it; zero points count from the type's smallest."""
    target = make_target(target_name)
    unit, rng = unit or dot_unit(target), np.random.default_rng(seed)
    limits = np.iinfo(unit.stored)
    zero, y_zero = zero + int(limits.min), y_zero + int(limits.min)
    m = len(weight)
    group = group or quantized_group(weight, out_width=8, unit=unit)
    tile, stored = stored_as(unit, weight, group, out_width=8)
    layouts = {"zero": zero, "y_zero": y_zero, "group": group, "tile": tile}
    conv = kernel_of(unit, weight, stored, data=data, **layouts, **options)
    x = rng.integers(limits.min, limits.max + 1, data).astype(unit.stored)
    if extreme:
        x[:] = limits.max
    bias = rng.integers(-1000, 1000, m).astype("int32")
    sums = exact_sums(conv, x, weight, bias)
    scale = (rng.random(m) * 200 / max(abs(sums).max(), 1)).astype("float32")
    other = rng.integers(limits.min, limits.max + 1, conv.out).astype(unit.stored)
    total, planes = conv.bias_and_planes(weight, bias)
    padded = np.zeros(conv.stored_filters, "float32")
    padded[:m] = scale
    args = [conv.x.packed(x), stored.blocks, conv.offsets(stored.columns), stored.pointers]
    args += [total, padded, *([] if planes is None else [planes])]
    args += [conv.residual.packed(other)] if conv.residual else []
    y = run(conv, [*args, np.zeros(conv.y.shape(conv.out), conv.result)], target)
    compare(conv, conv.y.unpacked(y, conv.out), expected(conv, sums, scale, other))
    assert (y[:, :, :, :, [0, -1]] == conv.y.fill).all()


PLAIN = {"stride": (1, 1, 1), "padding": (1,) * 6, "dilation": (1, 1, 1)}
SUMS = {"residual": False, "real": False, "relu": False, "ceiling": None}


@settings(max_examples=20, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("target", TARGETS)
def test_any_convolution_is_exact(target, data):
    check_any(target, data.draw)


def product_of_matrices(sums, inputs, weights, lanes):
    """What smmla does, by operations that every processor has."""
    x, w = (tvm.tirx.reinterpret("int8x16", each).astype("int32x16") for each in (inputs, weights))
    for k in range(8):
        of_filters = tvm.tirx.Shuffle([w], [k, k, 8 + k, 8 + k])
        sums = sums + of_filters * tvm.tirx.Shuffle([x], [k, 8 + k, k, 8 + k])
    return sums


def dot_product(sums, inputs, weights, lanes):
    """What sdot does, likewise."""
    x, w = (tvm.tirx.reinterpret("int8x16", each).astype("int32x16") for each in (inputs, weights))
    for k in range(4):
        own = [4 * lane + k for lane in range(lanes)]
        sums = sums + tvm.tirx.Shuffle([w], own) * tvm.tirx.Shuffle([x], own)
    return sums


def narrowed(values, zero):
    """What fcvtns and sqxtn do, likewise."""

    def within(value, low, high, dtype):
        low, high = (T.Broadcast(tvm.tirx.const(limit, dtype), 4) for limit in (low, high))
        return T.max(T.min(value, high), low)

    parts = []
    for value in values:
        whole = tvm.tirx.nearbyint(within(value, -(2.0**15), 2.0**15, "float32")).astype("int32x4")
        whole = whole + T.Broadcast(tvm.tirx.const(zero, "int32"), 4)
        parts.append(within(whole, -128, 127, "int32").astype("int8x4"))
    return tvm.tirx.Shuffle(parts, list(range(16)))


@pytest.fixture(scope="module", params=["cortex-a77", "arm64-i8mm"])
def arm(request):
    """The unit of an ARM target whose instructions are replaced, so that it runs here.

    That is the tile alone; the emulated phone and tests/bundle run the instructions themselves.
    """
    unit = dot_unit(make_target(request.param))
    multiply = {"sdot": dot_product, "smmla": product_of_matrices}[unit.instruction]
    plain = replace(INSTRUCTIONS[unit.instruction], multiply=multiply, narrowed=narrowed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(INSTRUCTIONS, unit.instruction, plain)
        yield unit


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_convolution_as_on_arm_is_exact(arm, data):
    check_any("x86-64-avx2", data.draw, unit=arm)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("width", [3, 4, 5, 8, 11])
def test_columns_that_lie_apart_are_the_right_ones(arm, width, stride):
    """Four output columns of stride 2 are one vector, of which the last ones are read otherwise."""
    check(
        "x86-64-avx2",
        unit=arm,
        weight=np.random.default_rng(0).integers(-127, 128, (8, 5, 1, 1, 3)).astype("int8"),
        data=(1, 5, 1, 2, (width - 1) * stride + 3),
        zero=7,
        y_zero=0,
        **PLAIN | {"stride": (1, 1, stride), "padding": (0,) * 6},
        **SUMS,
    )


def check_any(target, draw, unit=None):
    """A random convolution."""
    kernel, m, n = draw_sizes(draw)
    group = KernelGroup(g_m=draw(st.sampled_from([4, 8, 16, 32])), g_n=4)
    dilation = tuple(draw(st.integers(1, 2)) for _ in kernel)
    padding = tuple(draw(st.integers(0, min(k, 3) + 1)) for k in kernel * 2)
    extents = [
        max(draw(st.integers(1, 12)), (k - 1) * step + 1 - before - after, 1)
        for k, step, before, after in zip(kernel, dilation, padding[:3], padding[3:], strict=True)
    ]
    density = draw(st.sampled_from([0.4, 1.0, 0.1, 0.0]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    check(
        target,
        unit=unit,
        weight=pruned(rng, (m, n, *kernel), density=density, group=group),
        data=(draw(st.integers(1, 2)), n, *extents),
        group=draw(st.sampled_from([group, None])),
        zero=draw(st.sampled_from([0, 1, 77, 128, 255])),
        y_zero=draw(st.sampled_from([0, 3, 128, 255])),
        stride=tuple(draw(st.integers(1, 3)) for _ in kernel),
        padding=padding,
        dilation=dilation,
        residual=draw(st.booleans()),
        real=draw(st.booleans()),
        relu=draw(st.booleans()),
        ceiling=draw(st.sampled_from([None, 3.0])),
        seed=draw(st.integers(0, 99)),
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_products_do_not_saturate(target, sign):
    """255 * 127 four times over is above int16, in which some instructions would keep it."""
    weight = np.full((16, 64, 3, 3, 3), 127 * sign, "int8")
    check(
        target,
        weight=weight,
        data=(1, 64, 3, 5, 5),
        zero=0,
        y_zero=9,
        extreme=True,
        **PLAIN,
        **SUMS,
    )


@pytest.mark.parametrize("channels", [3, 45, 230, 921])
def test_channels_that_fill_no_block(channels):
    group = KernelGroup(g_m=16, g_n=4)
    weight = pruned(np.random.default_rng(0), (21, channels, 1, 3, 3), density=0.5, group=group)
    check("host", weight=weight, data=(1, channels, 2, 6, 7), zero=5, y_zero=0, **PLAIN, **SUMS)
