"""Importance by its definition, written as loops, and what the greedy removal does with it."""

import pytest
import torch
from torch import nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.activations import input_strength
from rt3d_tvm.prune.heuristic import Heuristic, channel_importance, weight_importance
from rt3d_tvm.prune.macs import count_macs
from rt3d_tvm.prune.project import apply_masks_
from rt3d_tvm.prune.schemes import Scheme
from topi_sparse.kernel_group import KernelGroup

CLIP = (1, 4, 2, 3, 3)
KGS = Scheme(name="kgs", group=KernelGroup(g_m=1, g_n=1))
FILTER = Scheme(name="filter", group=KernelGroup(g_m=1, g_n=1))


class Forked(nn.Module):
    """A residual sum, a concatenation and two readers of one layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv3d(4, 6, 1)
        self.branch = nn.Conv3d(6, 6, 1)
        self.side = nn.Conv3d(6, 3, 1)
        self.fc = nn.Linear(9, 5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        y = torch.cat([torch.relu(self.branch(x)) + x, self.side(x)], dim=1)
        return self.fc(y.mean(dim=(2, 3, 4)))


def absolute(layer):
    return layer.weight.detach().double().abs().flatten(1)


def test_importance_is_propagated_by_magnitudes():
    torch.manual_seed(0)
    norm = nn.BatchNorm3d(6)
    norm.weight.data = torch.randn(6)
    norm.running_var = torch.rand(6) + 0.5
    model = nn.Sequential(
        nn.Conv3d(4, 6, 1),
        norm,
        nn.ReLU(inplace=True),
        nn.Conv3d(6, 3, 1),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(3, 5),
    ).eval()
    importance = channel_importance(model, CLIP, ["0", "3"])
    # The mean over the positions takes out what the sum over them brings in.
    last = absolute(model[6]).sum(0)
    factor = norm.weight.detach().double().abs() / (norm.running_var.double() + norm.eps).sqrt()
    torch.testing.assert_close(importance["3"], last)
    torch.testing.assert_close(importance["0"], factor * (absolute(model[3]).T @ last))


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(2, 6), nn.InstanceNorm3d(6), nn.BatchNorm3d(6, track_running_stats=False)]
)
def test_norms_by_the_input_itself_are_passed_over(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(4, 6, 1), norm, nn.ReLU(), nn.Conv3d(6, 3, 1), nn.Flatten())
    importance = channel_importance(model, CLIP, ["0"])["0"]
    torch.testing.assert_close(importance, 18 * absolute(model[3]).sum(0))


def test_forks_sum_what_all_their_readers_make_of_a_channel():
    torch.manual_seed(0)
    model = Forked()
    importance = channel_importance(model, CLIP, ["first", "branch", "side"])
    joined = absolute(model.fc).sum(0)
    branch, side = joined[:6], joined[6:]
    torch.testing.assert_close(importance["branch"], branch)
    torch.testing.assert_close(importance["side"], side)
    first = branch + absolute(model.branch).T @ branch + absolute(model.side).T @ side
    torch.testing.assert_close(importance["first"], first)


def test_weights_are_valued_by_what_they_read_and_who_reads_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(4, 6, (1, 2, 2), groups=2), nn.Conv3d(6, 2, 1)).eval()
    strength = {"0": torch.tensor([1.0, 2.0, 3.0, 4.0]).double()}
    found = weight_importance(model, CLIP, strength)["0"]
    output = channel_importance(model, CLIP, ["0"])["0"]
    for m in range(6):
        for n in range(2):
            read = strength["0"][2 * (m // 3) + n]
            expected = model[0].weight[m, n].detach().double().abs() * output[m] * read
            torch.testing.assert_close(found[m, n], expected)


def test_the_strength_of_an_input_is_its_rms_over_all_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(4, 6, 1), nn.ReLU(), nn.Conv3d(6, 2, 1))
    batches = [torch.randn(2, *CLIP[1:]), (torch.randn(3, *CLIP[1:]), torch.zeros(3))]
    strength = input_strength(model, ["0", "2"], batches, max_batches=9)
    clips = torch.cat([batches[0], batches[1][0]])
    for name, x in (("0", clips), ("2", torch.relu(model[0](clips)))):
        expected = x.detach().double().square().mean(dim=(0, 2, 3, 4)).sqrt()
        torch.testing.assert_close(strength[name], expected)
    first = input_strength(model, ["0"], batches, max_batches=1)["0"]
    torch.testing.assert_close(first, batches[0].double().square().mean(dim=(0, 2, 3, 4)).sqrt())


def choose(model, *, scheme=KGS, rate=2.0, rounds=4, batches=None, **options):
    batches = [torch.randn(2, *CLIP[1:])] if batches is None else batches
    return Heuristic(rounds=rounds).choose_masks(
        model, batches, scheme=scheme, rate=rate, input_shape=CLIP, max_batches=9, **options
    )


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(4, 8, 1), nn.ReLU(), nn.Conv3d(8, 8, 1), nn.Flatten())


def test_a_filter_that_nobody_reads_goes_first_however_large():
    model = chain()
    model[0].weight.data[3] = 100.0
    model[2].weight.data[:, 3] = 0.0
    masks = choose(model, scheme=FILTER, rate=1.2, ignore=["2"])
    assert not masks["0"][3].any()


def test_a_channel_that_is_never_on_is_not_worth_reading():
    model = chain()
    model[0].bias.data.fill_(1.0)  # all others are on
    model[0].weight.data[5] = 1e-6
    model[0].bias.data[5] = -1.0
    model[2].weight.data[:, 5] = 100.0
    masks = choose(model, rate=96 / 88, ignore=["0"])
    assert not masks["2"][:, 5].any()
    assert int((~masks["2"]).sum()) == 8


def test_what_the_rounds_before_removed_counts():
    """The one reader of filter 0 is the weakest weight: it goes first, and the filter after it."""
    model = chain()
    model[2].weight.data[:, 0] = 0.0
    model[2].weight.data[0, 0] = 1e-3
    model[0].weight.data[0] = 1e4
    batches = [torch.randn(2, *CLIP[1:])]
    model[0].bias.data[0] = -1e6  # hardly ever on: its reader is of no importance
    at_once = choose(model, rate=2.0, rounds=1, batches=batches)
    in_rounds = choose(model, rate=2.0, rounds=4, batches=batches)
    assert at_once["0"][0].all()
    assert not in_rounds["0"][0].any()


def test_all_layers_give_the_same_share():
    model = chain()
    model[2].weight.data *= torch.logspace(-3, 3, 64).reshape(model[2].weight.shape)
    masks = choose(model, rate=2.0)
    for mask in masks.values():
        assert float(mask.double().mean()) == pytest.approx(0.5, abs=0.04)


def test_the_model_is_left_as_it_was():
    model = Forked().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    masks = choose(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    apply_masks_(model, masks)
    layers = count_macs(model, CLIP)
    rate = sum(layer.dense for layer in layers) / sum(layer.kept for layer in layers)
    assert rate == pytest.approx(2.0, rel=0.01)


def test_bad_input_is_named_and_leaves_the_model_alone():
    model = chain()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(InputError, match="at least one round"):
        Heuristic(rounds=0)
    with pytest.raises(InputError, match="no batch of clips"):
        choose(model, batches=[])
    with pytest.raises(InputError, match="starts with one; got a str"):
        choose(model, batches=["clip.avi"])
    with pytest.raises(InputError, match="not finite on the batches"):
        choose(model, batches=[torch.full((1, *CLIP[1:]), torch.nan)])
    with pytest.raises(InputError, match="the highest is"):
        choose(model, rate=1e6)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_sum_beyond_float64_is_refused():
    layers = [nn.Conv3d(4, 4, 1) for _ in range(12)]
    for layer in layers:
        layer.weight.data.fill_(1e30)
    with pytest.raises(InputError, match="too deep"):
        channel_importance(nn.Sequential(*layers), CLIP, ["0"])
