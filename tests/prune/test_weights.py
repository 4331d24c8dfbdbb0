"""Weights that are computed: masked behind the computation, kept so, and made plain."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.project import project_
from rt3d_tvm.prune.pruner import ALGORITHMS, Regularization
from rt3d_tvm.prune.report import print_report
from rt3d_tvm.prune.rollback import unchanged_on_error
from rt3d_tvm.prune.weights import plain_weights, weight_at
from tests.prune import reparametrised as kinds
from tests.prune.small_training import pruner_of, scheme, sgd

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*weight_norm:FutureWarning", "ignore:the rate of .* counts zeros"
)
SHAPE = kinds.SHAPE


def clip(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def steps(pruner, count=2):
    model, optimizer = pruner.model.train(), pruner.optimizer
    for seed in range(count):
        optimizer.zero_grad()
        model(clip(seed)).square().mean().backward()
        pruner.regularize()
        optimizer.step()


@pytest.mark.parametrize("kind", kinds.MASKABLE)
def test_projection_is_of_the_weights_in_effect(kind):
    model = kinds.two_layers(kinds.MASKABLE[kind])
    with torch.no_grad():
        before = [model.eval()(clip()), weight_at(model, "2.weight").in_effect().clone()]
    report = project_(model, scheme=scheme(group="8x4"), rate=2.0, input_shape=SHAPE)
    assert report.rate == pytest.approx(kinds.counted_rate(model, clip()), rel=1e-6)
    assert report.rate > 1.98
    # What is kept is what it was; nothing computes it any more.
    assert type(model[2]) is nn.Conv3d or parametrize.is_parametrized(model[2], "bias")
    weight = model[2].weight.detach()
    assert "2.weight" in dict(model.named_parameters())
    assert not torch.signbit(weight[weight == 0]).any()
    torch.testing.assert_close(weight, torch.where(weight == 0, 0.0, before[1]))
    assert not torch.equal(model(clip()), before[0])


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
@pytest.mark.parametrize("kind", kinds.MASKABLE)
def test_masks_hold_behind_the_computation_through_training(kind, algorithm):
    model = kinds.two_layers(kinds.MASKABLE[kind])
    names = {*model.state_dict()}
    pruner = pruner_of(
        model, sgd(model), ALGORITHMS[algorithm](), scheme=scheme(group="8x4"), input_shape=SHAPE
    )
    steps(pruner)
    pruner.update()
    report = pruner.finalize([clip(5)])
    assert report.rate == pytest.approx(kinds.counted_rate(model, clip()), rel=1e-6)
    before = weight_at(model, "2.weight").in_effect().detach().clone()
    steps(pruner)
    after = weight_at(model, "2.weight").in_effect().detach()
    assert not torch.equal(after, before)
    assert not after[~pruner.masks["2"]].any()
    assert {*model.state_dict()} == names
    assert pruner.report().rate == pytest.approx(kinds.counted_rate(model, clip()), rel=1e-6)
    masked = model.eval()(clip())
    assert pruner.strip() is model
    torch.testing.assert_close(model.eval()(clip()), masked)
    assert {"0.weight", "2.weight"} <= {*dict(model.named_parameters())}
    assert pruner.report().rate == pytest.approx(kinds.counted_rate(model, clip()), rel=1e-6)


def test_the_penalty_of_a_computed_weight_goes_through_its_computation():
    """The gradient of original1 is that of the penalty as a function of it."""
    model = kinds.two_layers(parametrizations.weight_norm).double()
    pruner = pruner_of(model, sgd(model), Regularization(lambda_=0.5), input_shape=SHAPE)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pruner.regularize()
    at, index, step = model[2].parametrizations.weight.original1, (3, 1, 0, 2, 1), 1e-6
    with torch.no_grad():
        at[index] += step
        above = pruner.penalty()
        at[index] -= 2 * step
        below = pruner.penalty()
    assert float(at.grad[index]) == pytest.approx((above - below) / (2 * step), rel=1e-5)


def test_spectral_norm_takes_no_step_while_it_is_looked_at():
    model = kinds.two_layers(parametrizations.spectral_norm).train()
    before = kinds.state_of(model)
    pruner = pruner_of(model, sgd(model), input_shape=SHAPE)
    pruner.penalty()
    pruner.density()
    assert kinds.same_state(model, before)


@pytest.mark.parametrize("change", [kinds.hooked, kinds.rewritten])
def test_a_hook_that_makes_the_weight_anew_is_refused(change):
    """A plain pre-hook, or one that writes into the parameter: before anything is changed."""
    model = kinds.two_layers(change)
    before = kinds.state_of(model)
    with pytest.raises(InputError, match=r"computed in forward|does not keep its zeros"):
        project_(model, scheme=scheme(), rate=2.0, input_shape=SHAPE)
    with pytest.raises(InputError, match=r"computed in forward|does not keep its zeros"):
        pruner_of(model, sgd(model), input_shape=SHAPE)
    assert kinds.same_state(model, before)


def test_a_weight_that_forward_computes_stays_whole_and_is_named():
    model = kinds.two_layers(lambda layer: layer)
    model[2] = kinds.StandardisedConv3d(32, 32, 3, padding=1)
    with pytest.raises(InputError, match=r"stay whole: '2' \(its weight is computed in forward"):
        project_(model, scheme=scheme(), rate=2.0, input_shape=SHAPE)
    report = project_(model, scheme=scheme(), rate=1.05, input_shape=SHAPE)
    assert report.rate == pytest.approx(kinds.counted_rate(model, clip()), rel=1e-6)
    by_name = {layer.name: layer for layer in report.layers}
    assert by_name["2"].why_whole == "its weight is computed in forward()"
    assert (by_name["2"].pruned, by_name["2"].density) == (False, 1.0)
    out = io.StringIO()
    print_report(report, file=out)
    assert "whole: its weight is computed in forward()" in out.getvalue()


def test_one_copy_of_a_parametrized_layer_is_made_plain_without_the_other():
    model = kinds.two_layers(kinds.with_bias_too)
    twin = copy.deepcopy(model)
    project_(model, scheme=scheme(), rate=2.0, input_shape=SHAPE)
    assert parametrize.is_parametrized(twin[2], "weight")
    assert parametrize.is_parametrized(model[2], "bias")
    twin(clip())
    model(clip())
    twin_weight = twin[2].weight
    assert torch.count_nonzero(twin_weight) == twin_weight.numel()


@pytest.mark.parametrize("kind", kinds.MASKABLE)
def test_weights_are_plain_for_an_export_and_computed_again_after_it(kind):
    model = kinds.two_layers(kinds.MASKABLE[kind]).eval()
    before, names = kinds.state_of(model), [n for n, _ in model.named_modules()]
    expected = model(clip())
    with plain_weights(model):
        assert isinstance(model[0].weight, nn.Parameter)
        assert not model[0]._forward_pre_hooks
        torch.testing.assert_close(model(clip()), expected)
    assert kinds.same_state(model, before)
    assert [n for n, _ in model.named_modules()] == names
    torch.testing.assert_close(model(clip()), expected)


@pytest.mark.parametrize("kind", kinds.MASKABLE)
def test_an_error_brings_the_computation_back(kind):
    model = kinds.two_layers(kinds.MASKABLE[kind]).eval()
    before, expected = kinds.state_of(model), model(clip())
    gone = torch.ones(model[2].weight.shape, dtype=torch.bool)
    with pytest.raises(ZeroDivisionError), unchanged_on_error(model):
        weight_at(model, "2.weight").mask_(gone)
        assert not model[2].weight.any()
        weight_at(model, "2.weight").bake_()
        model[2].weight.data.fill_(7.0)
        model[6].weight.data.fill_(7.0)
        model[6].extra = nn.Parameter(torch.ones(()))
        raise ZeroDivisionError
    assert kinds.same_state(model, before)
    torch.testing.assert_close(model(clip()), expected)
