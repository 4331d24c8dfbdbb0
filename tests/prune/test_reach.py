"""The warning that nothing of the input reaches the output: where it is so, and only there."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from rt3d_tvm.prune.project import project_
from tests.prune.small_training import scheme

SHAPE = (1, 1, 4, 8, 8)


class Normalised(nn.Module):
    """Instance normalisation written out."""

    def forward(self, x):
        axes = (2, 3, 4)
        return (x - x.mean(axes, keepdim=True)) / (x.std(axes, keepdim=True) + 1e-5)


class LastAxis(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class Wary(nn.Module):
    def forward(self, x):
        assert not x.isnan().any()
        return x


NORMS = {
    "InstanceNorm": nn.InstanceNorm3d,
    "affine InstanceNorm": lambda c: nn.InstanceNorm3d(c, affine=True),
    "GroupNorm": lambda c: nn.GroupNorm(c // 4, c),
    "BatchNorm": nn.BatchNorm3d,
    "BatchNorm of the batch": lambda c: nn.BatchNorm3d(c, track_running_stats=False),
    "by hand": lambda _: Normalised(),
    "none": lambda _: nn.Identity(),
}


def model_of(norm, change=lambda layer: layer, *, channels=32):
    torch.manual_seed(0)
    return nn.Sequential(
        change(nn.Conv3d(1, channels, 1)),
        norm(channels),
        nn.ReLU(),
        change(nn.Conv3d(channels, 64, 1)),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(64, 5),
    )


def warned(model, *, rate, of=None, shape=SHAPE):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        project_(model, scheme=of or scheme(group="8x4"), rate=rate, input_shape=shape)
    return [str(w.message) for w in caught if "nothing of the input" in str(w.message)]


@pytest.mark.parametrize("norm", [*NORMS, "LayerNorm", "noise", "assertion"])
def test_a_pointwise_stem_with_a_norm_behind_it_is_not_called_severed(norm):
    more = {"LayerNorm": LastAxis, "noise": lambda _: Noisy(), "assertion": lambda _: Wary()}
    assert not warned(model_of({**NORMS, **more}[norm]), rate=1.3)


@pytest.mark.parametrize("norm", [*NORMS, "noise"])
def test_a_stem_without_weights_is_called_so(norm):
    model = model_of({**NORMS, "noise": lambda _: Noisy()}[norm])
    model[0].weight.data.zero_()
    (message,) = warned(model, rate=1.6)
    assert "layer '0' has no weight left" in message


@pytest.mark.parametrize("norm", NORMS)
def test_a_layer_that_reads_only_what_is_pruned_is_named(norm):
    """Filters 0 to 3 of the stem go, and the second layer reads no others."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(4, 8, 1), NORMS[norm](8), nn.ReLU(), nn.Conv3d(8, 8, 1), nn.AdaptiveAvgPool3d(1)
    )
    with torch.no_grad():
        model[0].weight[:4] *= 0.1
        model[3].weight[:, 4:] *= 0.1
    (message,) = warned(model, rate=2.0, of=scheme("vanilla"), shape=(1, 4, 2, 4, 4))
    assert "all that layer '3' reads is pruned in the layers before it" in message


@pytest.mark.parametrize("change", [parametrizations.spectral_norm, parametrizations.weight_norm])
def test_computed_weights_raise_no_false_alarm(change):
    assert not warned(model_of(nn.InstanceNorm3d, change), rate=1.3)


def test_a_relu_that_is_off_is_no_cut():
    model = model_of(NORMS["none"])
    model[3].bias.data.fill_(-100.0)
    assert not warned(model, rate=1.3)


def test_a_warning_that_is_an_error_changes_nothing():
    model = model_of(NORMS["none"])
    model[0].weight.data.zero_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="nothing of the input"):
            project_(model, scheme=scheme(group="8x4"), rate=1.6, input_shape=SHAPE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
