"""The penalties: their gradient against a numerical one, their update against equation (3)."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.regularization import LayerPenalty, Regularization
from rt3d_tvm.prune.reweighted import Reweighted
from rt3d_tvm.prune.schemes import SCHEMES, Scheme
from topi_sparse.kernel_group import KernelGroup


def scheme(name="kgs", group="4x4"):
    return Scheme(name=name, group=KernelGroup.parse(group))


def penalty_of(algorithm, weight, *, of="kgs", group="4x4", conv_groups=1, cost=1.0):
    return LayerPenalty.of(
        algorithm, weight, scheme=scheme(of, group), conv_groups=conv_groups, cost=cost
    )


@st.composite
def cases(draw):
    """(penalty, weight) in float64; the penalty was taken from other weights, as in training."""
    conv_groups = draw(st.sampled_from([1, 1, 2]))
    kernel = draw(st.lists(st.integers(1, 2), min_size=2, max_size=3))
    shape = (conv_groups * draw(st.integers(1, 4)), draw(st.integers(1, 5)), *kernel)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    before, sign = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    # Away from 0, where an l1 norm bends; some units are weak enough for their norm to fade.
    weight = sign.sign() * (0.05 + torch.rand(shape, generator=generator, dtype=torch.float64))
    weight[0] *= draw(st.sampled_from([1.0, 0.01]))
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    algorithm = draw(st.sampled_from([Regularization, Reweighted]))(
        lambda_=0.7, l1_share=share, eps=draw(st.sampled_from([1e-2, 1e-20, 1.0]))
    )
    penalty = penalty_of(
        algorithm,
        before,
        of=draw(st.sampled_from(SCHEMES)),
        group=f"{draw(st.integers(1, 3))}x{draw(st.integers(1, 3))}",
        conv_groups=conv_groups,
        cost=draw(st.floats(0.1, 5)),
    )
    return penalty, weight


@settings(max_examples=40, deadline=None)
@given(cases())
def test_the_gradient_is_the_numerical_one(case):
    """Central differences, h apart: they err by rounding, and by curvature.

    Rounding: ``value`` is a sum of terms that are all positive, so it errs by no more than its
    length in units of 2^-53, of all of it and not of the one term that moves. A unit that was 1e-4
    of its layer has P = 1e8, and then that is far more than the difference.
    Curvature: where the norm is not continued by a parabola, it is h^2 / (2 |u|^2) of the
    gradient, for a unit u of two weights or more; a parabola and a single weight have none.
    """
    penalty, weight = case
    step, least = 1e-6, 0.05 * 0.01
    norms = penalty.scheme.mean_norms(weight, groups=penalty.conv_groups)
    for values in (norms, weight.abs()):  # across the bend there is no third derivative
        assume(bool(((values - penalty.bend).abs() > 2 * step).all()))
    gradient = penalty.gradient(weight)
    numerical = torch.empty_like(weight)
    for index in map(tuple, torch.ones(weight.shape).nonzero().tolist()):
        moved = weight.clone()
        moved[index] += step
        above = penalty.value(moved)
        moved[index] -= 2 * step
        numerical[index] = (above - penalty.value(moved)) / (2 * step)
    rounding = (2 * weight.numel() + 16) * 2**-53 * penalty.value(weight) / step
    curvature = step**2 / (2 * 2 * least**2)
    torch.testing.assert_close(gradient, numerical, rtol=1.01 * curvature, atol=rounding)


def test_equation_2_by_hand():
    """Two units of two weights: sum of the norms, each times sqrt(n), at scale r and cost c."""
    weight = torch.tensor([[3.0, 4.0], [6.0, 8.0]]).reshape(2, 2, 1, 1, 1)
    penalty = penalty_of(Regularization(lambda_=0.1, eps=1e-20), weight, group="1x2", cost=3.0)
    r = (125 / 4) ** 0.5
    assert penalty.value(weight) == pytest.approx(0.1 * 3 * r * 2**0.5 * (5 + 10))


def test_the_pull_fades_below_sqrt_eps_and_only_there():
    """Units of s = 0.5 and 0.05 of their layer at sqrt(eps) = 0.1: full pull, and half of it."""
    weight = torch.full((40, 4, 1, 1, 1), 1.0)
    weight[0], weight[1] = 0.5, 0.05
    weight[2:] *= ((160 - 1 - 0.01) / 152) ** 0.5  # so that the layer's RMS is 1
    penalty = penalty_of(Regularization(lambda_=1.0), weight, group="1x4")
    pull = penalty.gradient(weight)[:, 0].flatten()
    assert pull[0] == pytest.approx(1.0)
    assert pull[1] == pytest.approx(0.5)
    assert pull[2] == pytest.approx(1.0)


def test_the_update_by_hand():
    """Units [3, 4] and [0, 0]: r^2 = 25 / 4, so s^2 = 12.5 / 6.25 = 2, and 0."""
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).reshape(2, 2, 1, 1, 1)
    penalty = penalty_of(Reweighted(eps=0.5), weight, group="1x2")
    assert penalty.factors.flatten().tolist() == pytest.approx([1 / 2.5, 1 / 0.5])


@pytest.mark.parametrize("name", SCHEMES)
def test_the_update_is_equation_3_on_scaled_weights(name):
    """Where n * r^2 = 1 for all units, the equation holds to the letter."""
    torch.manual_seed(0)
    weight = torch.randn(8, 8, 1, 2, 2, dtype=torch.float64)
    n = {"filter": 32, "vanilla": 64, "kgs": 16}[name]
    weight /= weight.square().mean().sqrt() * n**0.5
    penalty = penalty_of(Reweighted(eps=0.01), weight, of=name)
    squared = scheme(name).norms(weight).square()
    torch.testing.assert_close(penalty.factors, 1 / (squared + 0.01))


def test_the_fixed_penalty_is_the_same_for_all_units():
    torch.manual_seed(0)
    penalty = penalty_of(Regularization(), torch.randn(8, 8, 1, 3, 3))
    assert penalty.factors.unique().tolist() == [1.0]


@pytest.mark.parametrize("algorithm", [Regularization(), Reweighted()])
@pytest.mark.parametrize("of", SCHEMES)
def test_a_step_means_the_same_in_layers_of_any_size_and_scale(algorithm, of):
    """Units of equal strength for their layer lose the same share of it, whatever the layer."""
    lost = []
    for filters, channels, location, magnitude in ((16, 3, 1, 3.0), (64, 72, 3, 1e-3)):
        # Whole units of strength 2 and 0.5: every second filter, or row block of 4 filters.
        strong = torch.arange(filters) // 4 % 2 == 0
        strength = torch.where(strong, 2.0, 0.5).double().reshape(-1, 1, 1, 1, 1)
        weight = magnitude * strength.expand(filters, channels, 1, location, location)
        penalty = penalty_of(algorithm, weight, of=of)
        moved = penalty.gradient(weight) / weight.square().mean().sqrt()
        lost.append((float(moved[0].mean()), float(moved[4].mean())))
    assert lost[0] == pytest.approx(lost[1], rel=1e-9)
    assert lost[0][0] > 0
    ratio = lost[0][1] / lost[0][0]
    s2 = [2 * x**2 / (2.0**2 + 0.5**2) for x in (2.0, 0.5)]
    expected = (s2[0] + 0.01) / (s2[1] + 0.01) if algorithm.reweights else 1
    assert ratio == pytest.approx(expected)


def test_cost_and_lambda_scale_the_gradient():
    torch.manual_seed(0)
    weight = torch.randn(8, 8, 1, 3, 3)
    once = penalty_of(Reweighted(lambda_=1e-3), weight).gradient(weight)
    more = penalty_of(Reweighted(lambda_=2e-3), weight, cost=3.0).gradient(weight)
    torch.testing.assert_close(more, 6 * once)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_what_is_zero_is_not_pulled(share):
    weight = torch.randn(8, 8, 1, 1, 1)
    weight[:4] = 0
    gradient = penalty_of(Reweighted(l1_share=share), weight).gradient(weight)
    assert torch.isfinite(gradient).all()
    assert torch.count_nonzero(gradient[:4]) == 0
    assert torch.count_nonzero(gradient[4:]) == 32
    empty = torch.zeros(8, 8, 1, 1, 1)
    assert not penalty_of(Reweighted(l1_share=share), empty).gradient(empty).any()


@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf")])
def test_numbers_out_of_range_are_refused(value):
    for kind in (Regularization, Reweighted):
        with pytest.raises(InputError, match="lambda is a finite number"):
            kind(lambda_=value)
        with pytest.raises(InputError, match="l1_share"):
            kind(l1_share=value)
        with pytest.raises(InputError, match="eps"):
            kind(eps=value)
        with pytest.raises(InputError, match="eps"):
            kind(eps=0.0)
