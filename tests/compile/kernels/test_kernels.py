"""The choice between kernels: by what they cost, with a reason where one cannot be used."""

import dataclasses

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.ir.report import read_report
from rt3d_tvm.compile.kernels.candidates import cheapest
from rt3d_tvm.compile.kernels.direct import direct, why_not_padded
from rt3d_tvm.compile.kernels.kernel import Convolution
from rt3d_tvm.compile.kernels.winograd import by_winograd, why_not_winograd
from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.keep_packed import KeepPacked
from rt3d_tvm.compile.targets import make_target
from tests.oracle import UNIT_ROUNDOFF, conv3d_float64
from tests.random_convolutions import masked
from tests.relax_modules import GEOMETRY, conv, draw, module, operators, run
from topi_sparse.cpu.register_tile import vector_unit
from topi_sparse.kernel_group import KernelGroup

GROUP = KernelGroup(g_m=16, g_n=4)
TARGETS = ["x86-64-avx512", "x86-64-avx2", "cortex-a77"]


def convolution(density=1.0, scheme="kgs", kernel=(3, 3, 3), **changes) -> Convolution:
    weight = masked((128, 128, *kernel), scheme=scheme, density=density, group=GROUP, seed=0)
    return dataclasses.replace(
        Convolution(
            data=(1, 128, 8, 28, 28),
            out=(1, 128, 8, 28, 28),
            weight=weight,
            bias=None,
            stride=(1, 1, 1),
            padding=(kernel[0] // 2, 1, 1) * 2,
            dilation=(1, 1, 1),
            residual=False,
            relu=False,
        ),
        **changes,
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("density", "scheme", "name"),
    [
        (1.0, "kgs", "winograd_conv3d"),
        (0.28, "kgs", "kgs_conv3d"),
        # Groups that are pruned whole are left out of the transformed weight as well.
        (0.5, "vanilla", "winograd_conv3d"),
    ],
)
def test_the_zeros_decide(target, density, scheme, name):
    unit = vector_unit(make_target(target))
    kernel = cheapest(convolution(density, scheme), unit, GROUP, winograd=True)
    assert kernel.name == name
    assert cheapest(convolution(density, scheme), unit, GROUP, winograd=False).name == "kgs_conv3d"


@pytest.mark.parametrize("target", TARGETS)
def test_winograd_has_to_save_multiply_adds_for_its_weights(target):
    """A byte of them serves every tile: 49 of a plane of 28 x 28, but only 16 of one of 14 x 14."""
    unit, plane = vector_unit(make_target(target)), (1, 128, 4, 14, 14)
    assert cheapest(convolution(), unit, GROUP, winograd=True).name == "winograd_conv3d"
    small = convolution(data=plane, out=plane)
    assert cheapest(small, unit, GROUP, winograd=True).name == "kgs_conv3d"


def test_winograd_issues_a_quarter_of_the_multiply_adds():
    unit, whole = vector_unit(make_target("cortex-a77")), convolution()
    assert by_winograd(whole, unit, GROUP).issued_macs * 4 == direct(whole, unit, GROUP).issued_macs


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weight": np.ones((8, 8, 1, 5, 5), "float32")}, "(5, 5) over H and W"),
        ({"stride": (1, 2, 2)}, "its stride is (1, 2, 2)"),
        ({"dilation": (1, 2, 2)}, "dilation (1, 2, 2)"),
        ({"weight": np.ones((8, 3, 3, 3, 3), "float32")}, "3 input channels"),
        ({"stride": (2, 1, 1), "dilation": (2, 1, 1)}, None),
    ],
)
def test_winograd_says_why_not(changes, reason):
    answer = why_not_winograd(convolution(**changes))
    assert answer is None if reason is None else reason in answer


@pytest.mark.parametrize(
    ("target", "pruned_in", "c_block", "group"),
    [
        ("x86-64-avx512", "8x4", 4, "8x4"),
        ("x86-64-avx512", "32x4", 3, "32x3"),
        ("x86-64-avx2", "8x4", 3, "8x3"),
        ("cortex-a77", "8x4", 3, "8x3"),
    ],
)
def test_a_picture_is_padded_where_its_channels_then_share_vectors(
    target, pruned_in, c_block, group
):
    """A fourth channel of zeros costs less than lanes that stay empty, and more than nothing."""
    weight = masked(
        (64, 3, 1, 7, 7), scheme="kgs", density=0.5, group=KernelGroup.parse(pruned_in), seed=0
    )
    stem = convolution(
        data=(1, 3, 16, 112, 112), out=(1, 64, 16, 112, 112), weight=weight, padding=(0, 3, 3) * 2
    )
    kernel = cheapest(stem, vector_unit(make_target(target)), None, winograd=True)
    assert (kernel.x.c_block, str(kernel.products.group)) == (c_block, group)
    assert "128 channels fill a kernel group" in why_not_padded(convolution())


def test_between_packed_layers_the_transforms_read_and_write_packed_values():
    weights = [draw((64, 64, 3, 3, 3), seed=seed) for seed in (0, 1)]
    shape = (1, 64, 4, 25, 26)

    def body(builder, x):
        first = builder.emit(relax.op.nn.relu(builder.emit(conv(x, weights[0]))))
        second = builder.emit(conv(first, weights[1]))
        return builder.emit(relax.op.nn.relu(builder.emit(relax.op.add(first, second))))

    before = module(shape, body)
    after = KeepPacked()(CompactConv3d(make_target("host"))(before))
    triple = ["winograd_input", "kgs_conv3d", "winograd_output"]
    assert operators(after) == ["pack", *triple, *triple, "unpack"]
    assert [layer.kernel for layer in read_report(after)] == ["winograd_conv3d"] * 2
    x = draw(shape)
    expected = conv3d_float64(x, weights[0], None, **GEOMETRY).clip(0)
    expected = (expected + conv3d_float64(expected, weights[1], None, **GEOMETRY)).clip(0)
    # Each of the two costs some 30 roundoffs of the largest value (test_winograd).
    assert abs(run(after, x) - expected).max() < 2 * 128 * UNIT_ROUNDOFF * abs(expected).max()


def test_the_direct_kernel_alone_where_it_is_asked_for():
    weight = draw((64, 64, 3, 3, 3))
    before = module((1, 64, 4, 28, 28), lambda builder, x: builder.emit(conv(x, weight)))
    after = CompactConv3d(make_target("host"), winograd=False)(before)
    assert operators(after) == ["pack", "kgs_conv3d", "unpack"]
