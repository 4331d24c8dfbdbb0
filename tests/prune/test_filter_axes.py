"""Weights whose filters are on another axis, and such without locations: pruned in whole units."""

import itertools

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from rt3d_tvm.errors import InputError
from rt3d_tvm.export import export_onnx
from rt3d_tvm.prune.activations import input_strength
from rt3d_tvm.prune.filter_axes import FilterAxes
from rt3d_tvm.prune.heuristic import channel_importance, weight_importance
from rt3d_tvm.prune.project import choose_masks, project_
from rt3d_tvm.prune.pruner import ALGORITHMS, Pruner
from rt3d_tvm.prune.survey import survey_model
from tests.prune import reparametrised as kinds
from tests.prune.small_training import scheme, sgd


class Product(nn.Module):
    """A bare parameter behind the input or before it, of 16 channels and 24 filters."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        shape = (24, 16) if how in ("linear", "before") else (16, 24)
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        if self.how == "linear":
            return functional.linear(x, self.weight)
        return x @ self.weight if self.how == "behind" else self.weight @ x


def deconv(dims, groups):
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    return kind(16, 24, 3, stride=2, padding=1, output_padding=1, groups=groups)


# The layer, the shape of its input, its conv groups, and whether the inputs are on the first axis.
LAYERS = {
    "transposed 1D": (lambda: deconv(1, 1), (2, 16, 9), 1, True),
    "transposed 2D": (lambda: deconv(2, 1), (2, 16, 5, 6), 1, True),
    "transposed 3D": (lambda: deconv(3, 1), (2, 16, 3, 4, 5), 1, True),
    "transposed 3D in groups": (lambda: deconv(3, 2), (2, 16, 3, 4, 5), 2, True),
    "transposed 1D in groups": (lambda: deconv(1, 4), (2, 16, 9), 4, True),
    "1D": (lambda: nn.Conv1d(16, 24, 3), (2, 16, 9), 1, False),
    "1D in groups": (lambda: nn.Conv1d(16, 24, 3, groups=2), (2, 16, 9), 2, False),
    "linear": (lambda: nn.Linear(16, 24), (3, 16), 1, False),
    "linear on tokens": (lambda: nn.Linear(16, 24), (2, 5, 16), 1, False),
    "linear without bias": (lambda: nn.Linear(16, 24, bias=False), (2, 5, 16), 1, False),
    "F.linear": (lambda: Product("linear"), (2, 5, 16), 1, False),
    "x @ W": (lambda: Product("behind"), (2, 5, 16), 1, True),
    "W @ x": (lambda: Product("before"), (16, 7), 1, False),
}


def layer_of(name):
    torch.manual_seed(0)
    make, shape, groups, inputs_first = LAYERS[name]
    return make(), shape, groups, inputs_first


def filters_by_loops(weight, groups, inputs_first):
    """[M, N / groups, k...] element by element, of numpy."""
    if not inputs_first:
        return weight
    channels, per_group, *locations = weight.shape
    filters = np.zeros((per_group * groups, channels // groups, *locations), weight.dtype)
    for n, m in itertools.product(range(channels), range(per_group)):
        group = n // (channels // groups)
        filters[group * per_group + m, n % (channels // groups)] = weight[n, m]
    return filters


def blocks_of(filters, groups, of, g_m, g_n):
    """Every unit of the scheme, as an array of its weights."""
    per_group, channels = filters.shape[0] // groups, filters.shape[1]
    flat = filters.reshape(*filters.shape[:2], -1)
    if of == "filter":
        yield from flat
        return
    for group, m in itertools.product(range(groups), range(0, per_group, g_m)):
        rows = flat[group * per_group + m : group * per_group + min(m + g_m, per_group)]
        for n in range(0, channels, g_n):
            block = rows[:, n : n + g_n]
            yield from [block] if of == "vanilla" else block.transpose(2, 0, 1)


@pytest.mark.parametrize("name", LAYERS)
def test_axes_are_those_of_the_definition(name):
    layer, _, groups, inputs_first = layer_of(name)
    weight = layer.weight.detach()
    axes = FilterAxes(conv_groups=groups, inputs_first=inputs_first)
    expected = filters_by_loops(weight.numpy(), groups, inputs_first)
    np.testing.assert_array_equal(axes.filters(weight), expected)
    assert axes.shape(weight.shape) == expected.shape
    assert torch.equal(axes.weight(axes.filters(weight)), weight)


@pytest.mark.parametrize("of", ["filter", "vanilla", "kgs"])
@pytest.mark.parametrize("name", LAYERS)
def test_whole_units_go_and_the_rest_computes_the_same(name, of):
    layer, shape, groups, inputs_first = layer_of(name)
    before, x = layer.weight.detach().clone(), torch.randn(shape)
    report = project_(layer, scheme=scheme(of), rate=2, example_inputs=x, linear=True)
    (entry,) = report.layers
    assert report.rate == pytest.approx(2, rel=0.01)
    assert entry.pruned
    assert entry.why_whole is None
    if name not in ("x @ W", "W @ x"):  # which the count does not see
        assert report.rate == pytest.approx(kinds.counted_rate(layer, x), rel=1e-6)
    weight = layer.weight.detach()
    assert torch.equal(weight, torch.where(weight == 0, 0, before))
    filters = filters_by_loops(weight.numpy(), groups, inputs_first)
    for block in blocks_of(filters, groups, of, 4, 4):
        assert np.count_nonzero(block) in (0, block.size)
    assert entry.empty_filters == sum(not each.any() for each in filters)
    if of == "filter":
        assert entry.empty_filters == 12


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", ["transposed 3D in groups", "1D", "linear on tokens", "x @ W"])
def test_every_algorithm_trains_and_holds_them(name, algorithm):
    layer, shape, groups, inputs_first = layer_of(name)
    x = torch.randn(shape)
    pruner = Pruner(
        layer,
        sgd(layer),
        ALGORITHMS[algorithm](),
        scheme=scheme(),
        rate=2.0,
        example_inputs=x,
        linear=True,
    )
    for step in range(4):
        pruner.optimizer.zero_grad()
        layer(x).square().mean().backward()
        pruner.regularize()
        pruner.optimizer.step()
        if step == 1:
            pruner.update()
            report = pruner.finalize([x])
    assert report.rate == pytest.approx(2.0, rel=0.01)
    pruner.strip()
    filters = filters_by_loops(layer.weight.detach().numpy(), groups, inputs_first)
    assert np.count_nonzero(filters) == filters.size // 2
    for block in blocks_of(filters, groups, "kgs", 4, 4):
        assert np.count_nonzero(block) in (0, block.size)


def test_the_penalty_is_that_of_the_filters():
    """A transposed convolution is pressed as a convolution of the same filters is."""
    torch.manual_seed(0)
    up, down = nn.ConvTranspose3d(8, 12, 3, groups=2), nn.Conv3d(8, 12, 3, groups=2)
    with torch.no_grad():
        axes = FilterAxes(conv_groups=2, inputs_first=True)
        down.weight.copy_(axes.filters(up.weight))
    pressed = {}
    for layer in (up, down):
        x = torch.randn(1, 8, 4, 4, 4)
        pruner = Pruner(
            layer, sgd(layer), ALGORITHMS["reweighted"](), scheme=scheme(), rate=2, example_inputs=x
        )
        (layer(x) * 0).sum().backward()
        pruner.regularize()
        pressed[layer] = layer.weight.grad
    assert pressed[down].abs().max() > 0
    torch.testing.assert_close(axes.filters(pressed[up]), pressed[down])


@pytest.mark.parametrize("name", LAYERS)
def test_importance_is_that_of_the_channels(name):
    """S of one layer whose outputs are summed is how often a filter is used; a is measured."""
    layer, shape, groups, inputs_first = layer_of(name)
    x = torch.randn(shape)
    survey = survey_model(layer, example_inputs=x)
    (work,) = survey.layers
    strength = input_strength(survey, [work.name], [x], max_batches=1)
    expected = x.double().square().movedim(x.shape.index(16), 0).flatten(1).mean(1).sqrt()
    torch.testing.assert_close(strength[work.name], expected)
    positions = layer(x).numel() // 24
    output = channel_importance(survey, None, [work.name])[work.name]
    torch.testing.assert_close(output, torch.full((24,), float(positions), dtype=torch.float64))
    found = weight_importance(survey, None, strength)[work.name]
    assert found.shape == layer.weight.shape
    filters = filters_by_loops(layer.weight.detach().numpy(), groups, inputs_first)
    a = expected.reshape(groups, -1).repeat_interleave(24 // groups, 0).numpy()
    a = a.reshape(*a.shape, *[1] * (filters.ndim - 2))
    by_filters = filters_by_loops(found.numpy(), groups, inputs_first)
    np.testing.assert_allclose(by_filters, positions * np.abs(filters) * a, rtol=1e-6)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = nn.Linear(16, 16)

    def forward(self, x):
        return self.out(self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_attention_is_pruned_where_linear_layers_are(algorithm):
    torch.manual_seed(0)
    model, x = Attention(), torch.randn(2, 5, 16)
    options = {"scheme": scheme(), "example_inputs": x, "linear": True}
    pruner = Pruner(model, sgd(model), ALGORITHMS[algorithm](), rate=1.5, **options)
    report = pruner.finalize([x])
    assert {layer.name: layer.pruned for layer in report.layers} == {
        "attention.in_proj_weight": True,
        "attention (of activations)": False,
        "attention.out_proj": True,
        "out": True,
    }
    assert report.rate == pytest.approx(1.5, rel=0.01)


def test_a_checkpoint_knows_whether_linear_layers_are_pruned(tmp_path):
    def pruner(linear):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 6, 32))
        algorithm = ALGORITHMS["reweighted"]()
        options = {"scheme": scheme(), "rate": 1.2, "input_shape": (1, 8, 8), "linear": linear}
        return Pruner(model, sgd(model), algorithm, **options)

    first = pruner(True)
    first.finalize()
    first.save(tmp_path / "linear")
    with pytest.raises(InputError, match="with linear layers True, here it is False"):
        pruner(False).load(tmp_path / "linear")
    again = pruner(True)
    again.load(tmp_path / "linear")
    assert again.report() == first.report()


def test_linear_layers_stay_whole_unless_they_are_asked_for():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 6, 32))
    options = {"scheme": scheme(), "input_shape": (1, 8, 8)}
    report = project_(model, rate=1.2, **options)
    assert [layer.pruned for layer in report.layers] == [True, False]
    with pytest.raises(InputError, match=r"beyond reach.*linear=True prunes linear layers too"):
        project_(model, rate=4, **options)
    assert project_(model, rate=4, linear=True, **options).rate == pytest.approx(4, rel=0.01)
    with pytest.raises(InputError, match=r"no convolution .*linear layers where linear=True"):
        project_(nn.Linear(8, 8), rate=2, scheme=scheme(), input_shape=(1, 8))


class BothWays(nn.Module):
    """An autoencoder of one weight, which reads it along either axis."""

    def __init__(self):
        super().__init__()
        self.first, self.weight = nn.Linear(8, 8), nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return functional.linear(
            torch.relu(functional.linear(self.first(x), self.weight)), self.weight.t()
        )


def test_a_weight_that_is_used_along_both_axes_stays_whole():
    report = project_(BothWays(), scheme=scheme(), rate=1.2, input_shape=(1, 8), linear=True)
    reasons = {layer.name: layer.why_whole for layer in report.layers}
    assert reasons == {
        "first": None,
        "": "its weight is used with its filters on one axis and on the other",
    }


def test_depthwise_transposed_convolutions_stay_whole():
    model = nn.Sequential(nn.ConvTranspose3d(8, 8, 2, 2, groups=8), nn.Conv3d(8, 8, 1))
    report = project_(model, scheme=scheme(), rate=9 / 7, input_shape=(1, 8, 2, 2, 2))
    assert report.layers[0].why_whole.startswith("depthwise")
    assert report.layers[1].pruned


def test_the_export_has_the_zeros(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1),
        nn.ConvTranspose3d(8, 12, 2, stride=2, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(12, 8),
    )
    shape = (1, 3, 4, 6, 6)
    project_(model, scheme=scheme(), rate=2.5, input_shape=shape, linear=True)
    export_onnx(model, shape, tmp_path / "up.onnx")
    graph = onnx.load(tmp_path / "up.onnx").graph
    arrays = [numpy_helper.to_array(each) for each in graph.initializer]
    for layer in (model[0], model[1], model[5]):
        weight = layer.weight.detach().numpy()
        assert 0 < np.count_nonzero(weight) < weight.size
        assert any(np.array_equal(weight, array) for array in arrays)


def test_masks_have_the_weights_own_shape():
    layer = nn.ConvTranspose2d(8, 12, 3, groups=2)
    masks = choose_masks(layer, scheme=scheme(), rate=2, input_shape=(1, 8, 5, 5))
    assert {name: mask.shape for name, mask in masks.items()} == {"": layer.weight.shape}
