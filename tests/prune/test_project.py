"""One-shot projection: the rate it reaches, what it keeps, what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.models import CLIP_MODELS, MODELS, build_model
from rt3d_tvm.prune.macs import count_macs
from rt3d_tvm.prune.project import choose_masks, project_
from rt3d_tvm.prune.pruner import ALGORITHMS, Pruner, Reweighted
from rt3d_tvm.prune.schemes import Scheme
from topi_sparse.kernel_group import KernelGroup

CLIP = (1, 3, 16, 32, 32)


def scheme(name="kgs", group="4x4"):
    return Scheme(name=name, group=KernelGroup.parse(group))


def reduced(name="r2plus1d", width=0.25):
    torch.manual_seed(0)
    return build_model(name, num_classes=11, width=width, frames=CLIP[2], size=CLIP[3])


def stack(*weights):
    """1x1 convolutions with given weights [M, N], one after the other."""
    layers = []
    for weight in weights:
        layer = nn.Conv3d(weight.shape[1], weight.shape[0], 1, bias=False)
        layer.weight.data = weight.clone().reshape(layer.weight.shape)
        layers.append(layer)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("name", CLIP_MODELS)
def test_the_papers_rate_is_met_over_the_whole_model(name):
    model, spec = reduced(name), MODELS[name]
    report = project_(
        model,
        scheme=scheme(),
        rate=spec.paper_rate,
        input_shape=CLIP,
        ignore=spec.classifiers,
    )
    layers = count_macs(model, CLIP)
    dense = sum(layer.dense for layer in layers)
    kept = sum(layer.kept for layer in layers)
    assert dense / kept == pytest.approx(spec.paper_rate, rel=0.01)
    assert (report.dense_macs, report.kept_macs) == (dense, kept)
    assert report.rate == dense / kept
    for layer, entry in zip(layers, report.layers, strict=True):
        assert (entry.name, entry.density) == (layer.name, layer.density)
        is_linear = isinstance(model.get_submodule(entry.name), nn.Linear)
        assert entry.pruned is not (is_linear or entry.name in spec.classifiers)
        assert entry.density == 1 if not entry.pruned else 0 < entry.density <= 1


@pytest.mark.parametrize("name", ["filter", "vanilla", "kgs"])
def test_zeros_form_whole_units(name):
    model = reduced(width=0.5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    project_(model, scheme=scheme(name), rate=2.0, input_shape=CLIP)
    for key, value in model.state_dict().items():
        if value.dim() == 5:
            norms = scheme(name).norms(value)
            kept = scheme(name).mask(norms > 0, value.shape)
            assert torch.equal(value, torch.where(kept, before[key], 0))
        else:
            assert torch.equal(value, before[key])


@settings(max_examples=25, deadline=None)
@given(st.floats(1.0, 12.0), st.sampled_from(["4x4", "16x4", "3x5"]), st.sampled_from([1, 2]))
def test_any_reachable_rate_is_met_within_a_hundredth(rate, group, order):
    report = project_(
        reduced(), scheme=scheme(group=group), rate=rate, input_shape=CLIP, order=order
    )
    assert report.rate == pytest.approx(rate, rel=0.01)


def test_one_threshold_cuts_all_layers():
    """Whatever stays is at least as strong, relative to its layer, as whatever goes."""
    model = reduced()
    masks = choose_masks(model, scheme=scheme(), rate=3.0, input_shape=CLIP)
    kept, gone = [], []
    for name, mask in masks.items():
        weight = model.get_submodule(name).weight
        score = scheme().mean_norms(weight) / weight.double().square().mean().sqrt()
        keep = scheme().norms(mask.double()) > 0
        # The best unit stays by right, not by the threshold.
        kept.append(score[keep & (score < score.max())])
        gone.append(score[~keep])
    assert torch.cat(kept).min() >= torch.cat(gone).max()


def test_a_layers_scale_does_not_matter():
    torch.manual_seed(0)
    first, second = torch.randn(16, 16), torch.randn(16, 16)
    shape = (1, 16, 1, 2, 2)
    plain, scaled = stack(first, second), stack(first, 1000 * second)
    masks = [
        choose_masks(m, scheme=scheme(group="2x2"), rate=2.0, input_shape=shape)
        for m in (plain, scaled)
    ]
    for name in masks[0]:
        assert torch.equal(masks[0][name], masks[1][name])


def test_a_layer_gives_what_it_can_bear():
    """A layer of a few strong units and many weak ones loses more than one of equal units."""
    uneven = torch.full((8, 8), 0.01)
    uneven[:2] = 1.0
    even = torch.ones(8, 8) + 0.01 * torch.rand(8, 8)
    model = stack(uneven, even)
    report = project_(model, scheme=scheme(group="1x1"), rate=1.5, input_shape=(1, 8, 1, 1, 1))
    assert report.layers[0].density < 0.5
    assert report.layers[1].density == 1


def test_no_layer_is_emptied_at_the_highest_rate():
    model = reduced()
    with pytest.raises(InputError, match="the highest is") as refused:
        project_(model, scheme=scheme(), rate=1e6, input_shape=CLIP)
    highest = float(str(refused.value).split("the highest is ")[1].split(",")[0])
    with pytest.warns(UserWarning, match="nothing of the input reaches the output"):
        report = project_(model, scheme=scheme(), rate=highest * 0.999, input_shape=CLIP)
    assert all(layer.kept_macs > 0 for layer in report.layers)
    assert report.rate == pytest.approx(highest, rel=0.01)


def test_empty_filters_are_counted():
    model = stack(torch.cat([torch.ones(4, 8), torch.full((4, 8), 0.1)]))
    shape = (1, 8, 1, 1, 1)
    report = project_(model, scheme=scheme("filter"), rate=2.0, input_shape=shape)
    assert report.layers[0].empty_filters == 4
    assert torch.count_nonzero(model[0].weight[4:]) == 0


def test_ignored_layers_stay_whole():
    model = reduced()
    ignore = ("stem.0", "layer4.1.conv2.0.0")
    report = project_(model, scheme=scheme(), rate=2.5, input_shape=CLIP, ignore=ignore)
    untouched = {layer.name for layer in report.layers if not layer.pruned}
    assert untouched == {*ignore, "fc"}
    assert report.rate == pytest.approx(2.5, rel=0.01)


def test_grouped_and_plane_convolutions_are_pruned():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 24, 3, padding=1, groups=2), nn.Conv2d(24, 16, 1))
    report = project_(model, scheme=scheme(), rate=2.0, input_shape=(1, 8, 9, 9))
    assert report.rate == pytest.approx(2.0, rel=0.01)
    assert all(layer.density < 1 for layer in report.layers)


def test_pruning_in_two_steps_counts_from_the_dense_model():
    model = reduced()
    project_(model, scheme=scheme(), rate=2.0, input_shape=CLIP)
    assert project_(model, scheme=scheme(), rate=4.0, input_shape=CLIP).rate == pytest.approx(
        4.0, rel=0.01
    )
    with pytest.raises(InputError, match="already"):
        project_(model, scheme=scheme(), rate=3.0, input_shape=CLIP)


def test_no_negative_zeros_are_left():
    model = stack(-torch.ones(4, 4) - torch.rand(4, 4))
    project_(model, scheme=scheme(group="1x1"), rate=2.0, input_shape=(1, 4, 1, 1, 1))
    weight = model[0].weight
    assert not torch.signbit(weight[weight == 0]).any()


@pytest.mark.parametrize("rate", [0.99, 0.0, -3.0, float("nan"), float("inf")])
def test_rates_that_are_none_are_refused(rate):
    with pytest.raises(InputError, match="at least 1"):
        choose_masks(reduced(), scheme=scheme(), rate=rate, input_shape=CLIP)


def test_units_too_coarse_for_the_rate_name_the_nearest():
    model = stack(torch.arange(1.0, 17.0).reshape(4, 4))
    with pytest.raises(InputError, match=r"nearest rates are 1\.333 and 2"):
        choose_masks(model, scheme=scheme("filter"), rate=1.6, input_shape=(1, 4, 1, 1, 1))


@pytest.mark.parametrize(("kept", "gone"), [(272, "b0 b1 b2"), (256, "a0"), (240, "a0 b0")])
def test_a_unit_too_large_for_the_rate_is_spared_for_smaller_ones(kept, gone):
    """Filters of 64 MACs in layer a, of 16 in b; the ascending order is b0 a0 b1 b2 a1 a2."""
    first = torch.tensor([0.2, 0.8, 0.9, 1.0]).reshape(4, 1).repeat(1, 4)
    second = torch.tensor([0.1, 0.3, 0.4, 1.0]).reshape(4, 1).repeat(1, 4)
    a, b = stack(first, second)
    model = nn.Sequential(a, nn.AvgPool3d((1, 2, 2)), b)
    masks = choose_masks(
        model, scheme=scheme("filter"), rate=320 / kept, input_shape=(1, 4, 1, 4, 4)
    )
    pruned = {
        f"{x}{m}"
        for x, name in (("a", "0"), ("b", "2"))
        for m in range(4)
        if not masks[name][m].any()
    }
    assert pruned == set(gone.split())


def test_a_model_that_was_cut_in_two_is_called_so():
    """Filters 4 to 7 of the first layer stay, and the second one reads 0 to 3."""
    first, second = torch.ones(8, 4), torch.ones(4, 8)
    first[:4] *= 0.1
    second[:, 4:] *= 0.1
    vanilla = scheme("vanilla", "4x4")
    with pytest.warns(UserWarning, match="reaches the output: all that layer '1' reads is pruned"):
        project_(stack(first, second), scheme=vanilla, rate=2, input_shape=(1, 4, 1, 2, 2))


@pytest.mark.parametrize("name", CLIP_MODELS)
def test_a_model_with_a_path_left_is_not_called_cut(name, recwarn):
    project_(reduced(name), scheme=scheme(), rate=3, input_shape=CLIP)
    assert not list(recwarn)


def test_other_bad_input_is_named():
    model = reduced()
    with pytest.raises(InputError, match=r"conv9.*stem\.0"):
        choose_masks(model, scheme=scheme(), rate=2, input_shape=CLIP, ignore=["conv9"])
    with torch.no_grad():
        model.stem[0].weight[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"stem\.0.*not finite"):
        choose_masks(model, scheme=scheme(), rate=2, input_shape=CLIP)
    with pytest.raises(InputError, match="no convolution"):
        choose_masks(nn.Linear(4, 4), scheme=scheme(), rate=2, input_shape=(1, 4))


class Scaled(nn.Module):
    """Learned numbers without an axis, with one and with several, and one without values."""

    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(1.0))
        self.gamma = nn.Parameter(torch.ones(32, 1, 1, 1))
        self.none = nn.Parameter(torch.ones(0))

    def forward(self, x):
        return x * self.alpha * self.gamma


VECTORS = {
    "GroupNorm": lambda: nn.GroupNorm(4, 32),
    "InstanceNorm": lambda: nn.InstanceNorm3d(32, affine=True),
    "LayerNorm": lambda: nn.LayerNorm([4, 8, 8]),
    "PReLU": lambda: nn.PReLU(32),
    "one PReLU": lambda: nn.PReLU(),
    "scales": Scaled,
}


def with_middle(middle):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 32, 3, padding=1), middle, nn.ReLU(), nn.Conv3d(32, 64, 3, padding=1)
    )


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("algorithm", [None, *ALGORITHMS])
def test_parameters_of_any_rank_are_no_obstacle(name, algorithm):
    model, shape = with_middle(VECTORS[name]()), (1, 1, 4, 8, 8)
    others = {k: v.clone() for k, v in model.state_dict().items() if k[0] == "1"}
    options = {"scheme": scheme(), "rate": 2.0, "input_shape": shape}
    if algorithm is None:
        report = project_(model, **options)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        pruner = Pruner(model, optimizer, ALGORITHMS[algorithm](), **options)
        report = pruner.finalize([torch.randn(2, *shape[1:])])
    assert report.rate == pytest.approx(2.0, rel=0.01)
    assert int(torch.count_nonzero(model[3].weight)) < 0.6 * model[3].weight.numel()
    assert all(torch.equal(model.state_dict()[k], v) for k, v in others.items())


class Late(nn.Module):
    """Runs until a weight has zeros."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 32, 3)

    def forward(self, x):
        if not self.conv.weight.is_meta and not self.conv.weight.all():
            raise MemoryError("too much")
        return self.conv(x)


@pytest.mark.parametrize("how", ["project_", "Pruner", "finalize"])
def test_any_error_leaves_the_model_as_it_was(how):
    """MemoryError is none that pruning knows; it comes when the masks are on."""
    torch.manual_seed(0)
    model, options = Late(), {"scheme": scheme(), "rate": 2.0, "input_shape": (1, 1, 4, 8, 8)}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    if how == "finalize":
        model.forward = model.conv.forward
        pruner = Pruner(model, optimizer, Reweighted(), **options)
        del model.forward
        model(torch.randn(1, 1, 4, 8, 8)).sum().backward()
        optimizer.step()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        momentum = optimizer.state[model.conv.weight]["momentum_buffer"].clone()
    with pytest.raises(MemoryError):
        if how == "project_":
            project_(model, **options)
        elif how == "Pruner":
            Pruner(model, optimizer, Reweighted(), **options)
        else:
            pruner.finalize()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if how == "finalize":
        assert torch.equal(optimizer.state[model.conv.weight]["momentum_buffer"], momentum)
        assert not pruner.pruned
        assert not optimizer._optimizer_step_post_hooks


def test_single_zeros_of_before_count_in_the_rate_and_are_told():
    torch.manual_seed(0)
    model = with_middle(nn.Identity())
    with torch.no_grad():
        model[3].weight[torch.rand(model[3].weight.shape) < 0.4] = 0
    with pytest.warns(UserWarning, match=r"kernels skip whole units, which makes 2x"):
        report = project_(model, scheme=scheme(), rate=2.0, input_shape=(1, 1, 4, 8, 8))
    layers = count_macs(model, (1, 1, 4, 8, 8))
    assert report.rate == sum(x.dense for x in layers) / sum(x.kept for x in layers)
    assert report.rate > 2.5
