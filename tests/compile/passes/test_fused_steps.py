"""What follows a convolution value by value becomes steps of its kernel, whichever that is."""

import math

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.ir.report import read_report
from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.keep_packed import KeepPacked
from rt3d_tvm.compile.targets import make_target
from tests.oracle import conv3d_float64, sum_bound
from tests.relax_modules import GEOMETRY, conv, draw, module, operators, run

# What schedules/transcendentals.py loses, in a few functions.
STEP_ERROR = 2e-6
KERNELS = {
    "kgs_conv3d": ((16, 8, 1, 3, 3), 1, (4, 9, 10)),
    "winograd_conv3d": ((64, 64, 3, 3, 3), 1, (4, 24, 24)),
    "depthwise_conv3d": ((24, 1, 3, 3, 3), 24, (4, 9, 10)),
}


def hard_sigmoid(b, y):
    scaled = b.emit(relax.op.multiply(relax.const(1 / 6), y))
    return b.emit(relax.op.clip(b.emit(relax.op.add(scaled, relax.const(0.5))), 0, 1))


def written_out_gelu(b, y):
    inner = b.emit(relax.op.erf(b.emit(relax.op.divide(y, relax.const(np.sqrt(2, dtype="f4"))))))
    outer = b.emit(relax.op.add(inner, relax.const(1.0)))
    return relax.op.multiply(b.emit(relax.op.multiply(relax.const(0.5), y)), outer)


def elu(b, y):
    below = b.emit(relax.op.nn.relu(b.emit(relax.op.subtract(relax.const(1.0), relax.op.exp(y)))))
    scaled = b.emit(relax.op.multiply(relax.const(-0.7), below))
    return relax.op.add(scaled, b.emit(relax.op.nn.relu(y)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# As importers write them -> what they compute; none is steeper than 1.2.
ACTIVATIONS = {
    "sigmoid": (lambda b, y: relax.op.sigmoid(y), sigmoid),
    "silu": (
        lambda b, y: relax.op.multiply(y, b.emit(relax.op.sigmoid(y))),
        lambda x: x * sigmoid(x),
    ),
    "hard_sigmoid": (hard_sigmoid, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "hard_swish": (
        lambda b, y: relax.op.multiply(y, hard_sigmoid(b, y)),
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    ),
    "leaky_relu": (
        lambda b, y: relax.op.nn.leakyrelu(y, alpha=0.1),
        lambda x: np.where(x < 0, 0.1 * x, x),
    ),
    "elu": (elu, lambda x: np.where(x < 0, 0.7 * np.expm1(x), x)),
    "gelu": (written_out_gelu, lambda x: x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2),
    "clip": (lambda b, y: relax.op.clip(y, -0.5, 0.25), lambda x: np.clip(x, -0.5, 0.25)),
    "tanh_of_relu": (
        lambda b, y: relax.op.tanh(b.emit(relax.op.nn.relu(y))),
        lambda x: np.tanh(np.maximum(x, 0)),
    ),
}
CASES = [("kgs_conv3d", name) for name in ACTIVATIONS]
CASES += [(kernel, "silu") for kernel in KERNELS if kernel != "kgs_conv3d"]


@pytest.mark.parametrize(("kernel", "name"), CASES)
def test_an_activation_is_part_of_the_kernel(kernel, name):
    written, exact = ACTIVATIONS[name]
    weight_shape, groups, plane = KERNELS[kernel]
    weight = draw(weight_shape, seed=3)
    channels = weight_shape[1] * groups
    shape = (1, channels, *plane)
    padding = tuple(n // 2 for n in weight_shape[2:])
    mod = CompactConv3d(make_target("host"))(
        module(
            shape,
            lambda b, x: written(b, b.emit(conv(x, weight, padding=padding, groups=groups))),
        )
    )
    mod = KeepPacked()(mod)  # which reads the kernel's definition from its JSON
    assert not [op for op in operators(mod) if op.startswith("relax.")]
    assert read_report(mod)[0].kernel == kernel
    x = draw(shape)
    geometry = {**GEOMETRY, "padding": padding * 2, "groups": groups}
    sums, size = (
        conv3d_float64(a, w, None, **geometry) for a, w in ((x, weight), (abs(x), abs(weight)))
    )
    expected = exact(sums)
    # Winograd's transforms lose some bits more than a sum in order.
    lost = sum_bound(weight[0].size, size) * (16 if kernel == "winograd_conv3d" else 1)
    error = abs(run(mod, x) - expected)
    assert (error <= 1.2 * lost + STEP_ERROR * (1 + abs(expected))).all()


def test_steps_end_before_a_value_that_something_else_reads():
    weight = draw((8, 8, 1, 1, 1))

    def body(builder, x):
        y = builder.emit(conv(x, weight, padding=0))
        gate = builder.emit(relax.op.sigmoid(builder.emit(relax.op.exp(y))))
        return relax.op.concat([gate, builder.emit(relax.op.multiply(y, gate))], axis=1)

    mod = CompactConv3d(make_target("host"))(module((1, 8, 2, 3, 3), body))
    left = [op for op in operators(mod) if op.startswith("relax.")]
    assert left == ["relax.exp", "relax.sigmoid", "relax.multiply", "relax.concat"]


def test_steps_end_before_a_value_is_written_out_too_often():
    """Each SiLU reads twice what it is of: eight in a row would be thousands of copies."""
    weight = draw((8, 8, 1, 1, 1))

    def body(builder, x):
        y = builder.emit(conv(x, weight, padding=0))
        for _ in range(8):
            y = builder.emit(relax.op.multiply(y, builder.emit(relax.op.sigmoid(y))))
        return y

    mod = CompactConv3d(make_target("host"))(module((1, 8, 2, 3, 3), body))
    left = [op for op in operators(mod) if op.startswith("relax.")]
    assert left == ["relax.sigmoid", "relax.multiply"] * 6
    assert max(len(function.script()) for function in mod.functions.values()) < 100_000


def test_what_is_infinite_at_zero_is_no_step():
    """The channels above C would be infinite, and a weight of 0 times that is a NaN."""
    weight = draw((5, 8, 1, 1, 1))

    def body(builder, x):
        return relax.op.divide(relax.const(1.0), builder.emit(conv(x, weight, padding=0)))

    mod = CompactConv3d(make_target("host"))(module((1, 8, 2, 3, 3), body))
    assert operators(mod)[-1] == "relax.divide"
