"""Transposed convolutions as kgs_conv3d with interleaved results: any geometry, against float64."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional
from tvm import relax

from rt3d_tvm.compile.ir.report import read_report
from rt3d_tvm.compile.kernels.transposed import why_not_transposed
from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.keep_packed import CHANGES_ATTRIBUTE, KeepPacked
from rt3d_tvm.compile.targets import make_target
from tests.oracle import sum_bound
from tests.random_convolutions import masked
from tests.relax_modules import conv, draw, module, operators, run, weight_of
from topi_sparse.kernel_group import KernelGroup


def transposed(x, weight, **attributes):
    return relax.op.nn.conv3d_transpose(x, relax.const(weight), **attributes)


def expected(x, weight, *, strides, padding, output_padding, dilation, groups=1) -> np.ndarray:
    return functional.conv_transpose3d(
        *(torch.from_numpy(each).double() for each in (x, weight)),
        None,
        strides,
        padding[:3],
        output_padding,
        groups,
        dilation,
    ).numpy()


@st.composite
def cases(draw):
    """Shapes, and a geometry; its result may be no multiple of the stride."""
    geometry = {"strides": [], "padding": [], "output_padding": [], "dilation": []}
    groups = draw(st.sampled_from([1, 1, 3]))
    kernel, data = [], [draw(st.integers(1, 2)), draw(st.sampled_from([3, 6, 9]))]
    for _ in range(3):
        step, taps, dilation = (draw(st.integers(1, most)) for most in (3, 4, 2))
        size = draw(st.integers(2, 5))
        span = (taps - 1) * dilation + 1
        before = draw(st.integers(0, min(span - 1, 2)))
        behind = draw(st.integers(0, step - 1)) if step > 1 else 0
        assume((size - 1) * step + span - 2 * before + behind > 0)
        for name, value in zip(geometry, (step, before, behind, dilation), strict=True):
            geometry[name].append(value)
        kernel.append(taps)
        data.append(size)
    geometry["padding"] *= 2
    geometry["groups"] = groups
    return data, (data[1], draw(st.sampled_from([1, 8, 19])), *kernel), geometry


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(), st.booleans(), st.sampled_from([0.3, 1.0]), st.integers(0, 99))
def test_any_geometry_is_that_of_float64(case, relu, density, seed):
    data, shape, geometry = case
    rng = np.random.default_rng(seed)
    x, weight = (rng.standard_normal(each).astype("float32") for each in (data, shape))
    weight *= rng.random(shape) < density
    y = expected(x, weight, **geometry)
    bias, residual = draw((1, y.shape[1], 1, 1, 1)), rng.standard_normal(y.shape).astype("float32")

    def body(builder, value):
        made = builder.emit(transposed(value, weight, **geometry))
        made = builder.emit(relax.op.add(made, relax.const(bias)))
        made = builder.emit(relax.op.add(made, relax.const(residual)))
        return relax.op.nn.relu(made) if relu else made

    before = module(data, body)
    after = KeepPacked()(CompactConv3d(make_target("host"))(before))
    (entry,) = read_report(after)
    if entry.kernel is None:  # a geometry that leaves an input unread, or many zeros of groups
        assert "padding" in entry.reason or "groups" in entry.reason
    y, size = y + bias + residual, expected(abs(x), abs(weight), **geometry)
    bound = sum_bound(weight[:, 0].size + 2, size + abs(bias) + abs(residual))
    assert (abs(run(after, x) - (np.maximum(y, 0) if relu else y)) <= bound).all()


DOUBLED = {"strides": [2] * 3, "padding": [1] * 6, "output_padding": [1] * 3, "dilation": [1] * 3}


def test_pruned_locations_are_left_out_and_its_neighbours_stay_packed():
    """27 of 64 locations are there in the 8 phases, and of these those that are not zero."""
    before, behind = weight_of((16, 8, 1, 1, 1)), weight_of((8, 16, 1, 1, 1))
    group = KernelGroup(g_m=8, g_n=4)
    kept = masked((16, 16, 3, 3, 3), scheme="kgs", density=0.4, group=group, seed=0)
    weight = np.ascontiguousarray(kept.swapaxes(0, 1))

    def body(builder, x):
        x = builder.emit(conv(x, before, padding=0))
        x = builder.emit(transposed(x, weight, **DOUBLED))
        return conv(builder.emit(relax.op.nn.relu(x)), behind, padding=0)

    shape = (1, 8, 3, 4, 5)
    after = KeepPacked()(CompactConv3d(make_target("x86-64-avx2"), group)(module(shape, body)))
    assert operators(after) == ["pack", *["kgs_conv3d"] * 3, "unpack"]
    assert int(after.attrs[CHANGES_ATTRIBUTE]) == 2
    entry = read_report(after)[1]
    assert entry.kernel == "kgs_conv3d"
    assert entry.dense_macs == 16 * 60 * 16 * 27
    assert entry.kept_macs == round(entry.dense_macs * np.count_nonzero(weight) / weight.size)
    assert entry.issued_macs == entry.kept_macs


@pytest.mark.parametrize(
    "changed", [{"output_padding": [0] * 3}, {"groups": 2}, {"strides": [3, 2, 1]}], ids=str
)
def test_conv_groups_and_a_rest_of_the_stride_stay_packed(changed):
    """A result of 5x7x9 is cut from 6x8x10, packed; two groups are written out with zeros."""
    geometry = {**DOUBLED, **changed}
    if "strides" in changed:
        geometry["output_padding"] = [1, 0, 0]
    weight, behind = weight_of((8, 8, 3, 3, 3)), weight_of((8, 8 * geometry.get("groups", 1)))
    behind = behind[:, :, None, None, None]
    bias = draw((1, behind.shape[1], 1, 1, 1))

    def body(builder, x):
        y = builder.emit(transposed(x, weight, **geometry))
        y = builder.emit(relax.op.nn.relu(builder.emit(relax.op.add(y, relax.const(bias)))))
        return conv(y, behind, padding=0)

    x = draw((1, 8, 3, 4, 5))
    mod = KeepPacked()(CompactConv3d(make_target("host"))(module(x.shape, body)))
    assert [entry.kernel for entry in read_report(mod)] == ["kgs_conv3d"] * 2
    assert int(mod.attrs[CHANGES_ATTRIBUTE]) == 2
    assert "relax.nn.conv3d_transpose" not in operators(mod)
    y = np.maximum(expected(x, weight, **geometry) + bias, 0)
    y = np.einsum("bndhw,mn->bmdhw", y, behind[:, :, 0, 0, 0].astype("float64"))
    assert run(mod, x).shape == y.shape
    assert np.abs(run(mod, x) - y).max() <= 1e-5 * np.abs(y).max()


def test_many_groups_are_not_worth_their_zeros():
    weight = draw((8, 1, 3, 3, 3))

    def body(builder, x):
        x = builder.emit(transposed(x, weight, **DOUBLED, groups=8))
        return relax.op.nn.relu(x)

    mod = CompactConv3d(make_target("host"))(module((1, 8, 3, 4, 5), body))
    (entry,) = read_report(mod)
    assert entry.kernel is None
    assert entry.reason.startswith("with 8 groups the smallest kernel group would issue 4 times")
    assert "relax.nn.conv3d_transpose" in operators(mod)


def test_a_gpu_has_no_such_kernel():
    def body(builder, x):
        return relax.op.nn.relu(builder.emit(transposed(x, weight_of((8, 8, 3, 3, 3)), **DOUBLED)))

    (entry,) = read_report(CompactConv3d(make_target("opencl"))(module((1, 8, 3, 4, 5), body)))
    assert entry.reason == "it is transposed: there is no such kernel for OpenCL yet"


def test_a_weight_that_is_no_constant_is_declined():
    x, weight = (
        relax.Var(name, relax.TensorType(shape, "float32"))
        for name, shape in (("x", (1, 8, 3, 4, 5)), ("w", (8, 8, 3, 3, 3)))
    )
    builder = relax.BlockBuilder()
    with builder.function("main", [x, weight]):
        call = builder.emit(relax.op.nn.conv3d_transpose(x, weight))
        builder.emit_func_output(call)
    call = builder.get()["main"].body.blocks[0].bindings[0].value
    assert why_not_transposed(call) == "its weight is not a constant"
