"""The rate that a pruner reaches: with every algorithm and scheme, and by whole units."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.models import CLIP_MODELS, MODELS, build_model
from rt3d_tvm.models.seeded import seeded_
from rt3d_tvm.prune.pruner import ALGORITHMS
from rt3d_tvm.prune.schemes import SCHEMES
from tests.prune.small_training import overall_rate, pruner_of, scheme, train, whole_units
from topi_sparse.kernel_group import KernelGroup

CLIP = (1, 3, 16, 32, 32)


def check_all_nine(name, model, input_shape, clips, rate):
    for algorithm in ALGORITHMS.values():
        for of in SCHEMES:
            pruned = copy.deepcopy(model)
            pruner = pruner_of(
                pruned,
                algorithm=algorithm(),
                of=of,
                rate=rate,
                input_shape=input_shape,
                ignore=MODELS[name].classifiers,
            )
            report = pruner.finalize(clips)
            assert overall_rate(pruned, input_shape) == pytest.approx(rate, rel=0.01)
            assert report.rate == pytest.approx(rate, rel=0.01)
            for layer, mask in pruner.masks.items():
                module = pruned.get_submodule(layer)
                assert mask.any()
                assert whole_units(module.weight.detach(), mask, scheme(of), module.groups)


def full_size(name):
    """Weights whose units are as unequal as trained ones, and activations that are alive."""
    return seeded_(
        build_model(name),
        seed=0,
        group=KernelGroup(g_m=4, g_n=4),
        input_shape=MODELS[name].input_shape,
    )


@pytest.mark.parametrize("name", CLIP_MODELS)
def test_the_rate_is_met_for_all_nine_combinations(name):
    torch.manual_seed(0)
    model = build_model(name, num_classes=11, width=0.25, frames=CLIP[2], size=CLIP[3])
    check_all_nine(name, model, CLIP, [torch.rand(2, *CLIP[1:])], 2.6)


@pytest.mark.full
@pytest.mark.parametrize("name", CLIP_MODELS)
def test_the_rate_is_met_for_all_nine_combinations_at_full_size(name):
    spec = MODELS[name]
    model = full_size(name)
    check_all_nine(name, model, spec.input_shape, [torch.rand(2, *spec.input_shape[1:])], 2.6)


@pytest.mark.full
def test_the_defaults_make_full_size_c3d_sparser_in_a_few_steps():
    spec = MODELS["c3d"]
    model = full_size("c3d")
    pruner = pruner_of(
        model,
        torch.optim.SGD(model.parameters(), lr=2e-4, momentum=0.9),
        input_shape=spec.input_shape,
        rate=spec.paper_rate,
        of="kgs",
    )
    before = {name: model.get_submodule(name).weight.detach().clone() for name in pruner._schemes}
    data = [(torch.randn(spec.input_shape), torch.tensor([step])) for step in range(4)]
    penalty = [pruner.penalty()]
    for batch in data:
        train(pruner, [batch])
        penalty.append(pruner.penalty())
    assert penalty == sorted(penalty, reverse=True)
    assert penalty[-1] < penalty[0]
    for name, weight in before.items():
        now = model.get_submodule(name).weight.detach()
        assert torch.isfinite(now).all()
        norms = [scheme().mean_norms(w) / w.double().square().mean().sqrt() for w in (weight, now)]
        weak = norms[0] < norms[0].median()
        assert norms[1][weak].mean() < norms[0][weak].mean()
        assert norms[1][~weak].mean() > norms[1][weak].mean()
    pruner.update()
    assert pruner.finalize().rate == pytest.approx(spec.paper_rate, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_model_is_pruned_by_whole_units(data):
    conv_groups = data.draw(st.sampled_from([1, 2]))
    middle = conv_groups * data.draw(st.integers(3, 7))
    kernel = data.draw(st.sampled_from([1, (1, 3, 3), (3, 1, 1), 3]))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    model = nn.Sequential(
        nn.Conv3d(3, middle, kernel, padding="same"),
        nn.Conv3d(middle, 6 * conv_groups, 3, groups=conv_groups, padding=1),
    )
    group = f"{data.draw(st.integers(1, 5))}x{data.draw(st.integers(1, 3))}"
    of = scheme(data.draw(st.sampled_from(["vanilla", "kgs"])), group)
    algorithm = data.draw(st.sampled_from(list(ALGORITHMS.values())))()
    shape = (1, 3, 3, 4, 4)
    try:
        pruner = pruner_of(model, algorithm=algorithm, scheme=of, rate=1.5, input_shape=shape)
        report = pruner.finalize([torch.rand(1, *shape[1:])])
    except InputError as error:
        # A handful of units: no mask of this structure has the rate.
        assert "cannot be met" in str(error) or "beyond reach" in str(error)
        return
    assert report.rate == pytest.approx(overall_rate(model, shape)) == pytest.approx(1.5, rel=0.01)
    for name, mask in pruner.masks.items():
        module = model.get_submodule(name)
        assert whole_units(module.weight.detach(), mask, of, module.groups)
