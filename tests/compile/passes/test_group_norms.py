"""GroupNorms: rewritten, with what follows in the same kernel; left alone; the same numbers."""

import numpy as np
import pytest
from tvm import relax

from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.group_norms import GroupNorms
from rt3d_tvm.compile.passes.keep_packed import CHANGES_ATTRIBUTE, KeepPacked
from rt3d_tvm.compile.targets import make_target
from tests.relax_modules import conv, draw, module, operators, run, weight_of

SHAPE = (1, 8, 4, 6, 7)
EPSILON = np.float32(1e-3)


def normalised(builder, x, *, axes, keepdims=True, epsilon=EPSILON):
    """As TVM's importer writes an InstanceNormalization."""
    emit = builder.emit
    mean = emit(relax.op.mean(x, axis=axes, keepdims=keepdims))
    away = emit(relax.op.subtract(x, mean))
    variance = emit(relax.op.variance(x, axis=axes, keepdims=keepdims))
    root = emit(relax.op.sqrt(emit(relax.op.add(variance, relax.const(epsilon)))))
    return emit(relax.op.divide(away, root))


def affine(builder, x, seed, channels=8, rank=5):
    scale, shift = (draw((1, channels, *[1] * (rank - 2)), seed=seed + i) for i in range(2))
    scaled = builder.emit(relax.op.multiply(x, relax.const(scale)))
    return builder.emit(relax.op.add(scaled, relax.const(shift)))


def instance_norm(builder, x):
    return affine(builder, normalised(builder, x, axes=[2, 3, 4]), seed=3)


def group_norm(builder, x):
    shape = [int(n) for n in x.ty.shape]
    grouped = builder.emit(relax.op.reshape(x, (shape[0], 2, -1)))
    norm = affine(builder, normalised(builder, grouped, axes=[2]), seed=5, channels=2, rank=3)
    return affine(builder, builder.emit(relax.op.reshape(norm, shape)), seed=3)


def between(norm, behind=relax.op.nn.relu):
    """A normalisation between two convolutions."""

    def body(builder, x):
        first = builder.emit(conv(x, weight_of((8, 8, 3, 3, 3))))
        middle = builder.emit(behind(norm(builder, first)))
        return conv(middle, weight_of((8, 8, 3, 3, 3), seed=2))

    return module(SHAPE, body)


def rewritten(mod, target="host"):
    chosen = make_target(target)
    return KeepPacked(chosen)(GroupNorms(chosen)(CompactConv3d(chosen, winograd=False)(mod)))


@pytest.mark.parametrize("norm", [instance_norm, group_norm])
@pytest.mark.parametrize(
    "behind", [relax.op.nn.relu, lambda x: relax.op.nn.leakyrelu(x, 0.25), relax.op.nn.silu]
)
def test_a_norm_and_what_follows_are_one_packed_kernel(norm, behind):
    before = between(norm, behind)
    after = rewritten(before)
    assert operators(after) == ["pack", "kgs_conv3d", "group_norm", "kgs_conv3d", "unpack"]
    assert int(after.attrs[CHANGES_ATTRIBUTE]) == 2
    x = draw(SHAPE)
    np.testing.assert_allclose(run(after, x), run(before, x), rtol=0, atol=2e-4)


def test_what_is_added_is_added_by_the_kernel():
    def body(builder, x):
        first = builder.emit(conv(x, weight_of((8, 8, 3, 3, 3))))
        added = builder.emit(relax.op.add(instance_norm(builder, first), first))
        return conv(builder.emit(relax.op.nn.relu(added)), weight_of((8, 8, 1, 1, 1)), padding=0)

    before = module(SHAPE, body)
    after = rewritten(before)
    assert operators(after) == ["pack", "kgs_conv3d", "group_norm", "kgs_conv3d", "unpack"]
    x = draw(SHAPE)
    np.testing.assert_allclose(run(after, x), run(before, x), rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "norm",
    [
        lambda builder, x: normalised(builder, x, axes=[1, 2, 3, 4]),
        lambda builder, x: normalised(builder, x, axes=[3, 4]),
    ],
)
def test_over_other_axes_it_stays_as_it_is(norm):
    assert "group_norm" not in operators(rewritten(between(norm)))


def test_whoever_reads_a_mean_as_well_keeps_all_of_it():
    def twice(builder, x):
        norm = normalised(builder, x, axes=[2, 3, 4])
        mean = builder.emit(relax.op.mean(x, axis=[2, 3, 4], keepdims=True))
        return builder.emit(relax.op.add(norm, mean))

    before = between(twice)
    after = rewritten(before)
    x = draw(SHAPE)
    np.testing.assert_allclose(run(after, x), run(before, x), rtol=0, atol=2e-4)


def test_a_gpu_keeps_the_operators():
    mod = CompactConv3d(make_target("opencl"))(between(instance_norm))
    assert operators(GroupNorms(make_target("opencl"))(mod)) == operators(mod)
