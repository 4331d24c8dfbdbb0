"""The work of a model is found by what runs, whoever calls it, and the model is left alone."""

import threading
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.macs import count_macs
from rt3d_tvm.prune.project import project_
from rt3d_tvm.prune.pruner import ALGORITHMS
from rt3d_tvm.prune.survey import survey_model
from tests.prune import reparametrised as kinds
from tests.prune.small_training import pruner_of, scheme, sgd

SHAPE = kinds.SHAPE


class Bare(nn.Module):
    """Every product but the first is by a parameter of the model's own."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv3d(3, 16, 3, padding=1)
        self.cube = nn.Parameter(0.1 * torch.randn(16, 16, 3, 3, 3))
        self.up = nn.Parameter(0.1 * torch.randn(16, 4, 1, 2, 2))
        self.flat = nn.Parameter(0.1 * torch.randn(4 * 16 * 9))
        self.out = nn.Parameter(torch.randn(5, 4))
        self.register_buffer("blur", torch.ones(4, 1, 1, 3, 3) / 9)

    def forward(self, x):
        x = torch.relu(functional.conv3d(self.a(x), self.cube, padding=1))
        x = functional.conv_transpose3d(x, self.up, stride=(1, 2, 2))
        x = functional.conv3d(x, self.blur, groups=4)
        y = functional.conv2d(x.mean(2), self.flat[: 4 * 4 * 9].view(4, 4, 3, 3))
        return functional.linear(y.mean((2, 3)), self.out) @ self.out


def by_name(model, shape=SHAPE, **options):
    return {layer.name: layer for layer in survey_model(model, input_shape=shape, **options).layers}


def test_products_outside_of_modules_are_counted_and_pruned():
    torch.manual_seed(0)
    model = Bare()
    found = by_name(model)
    cells = 4 * 8 * 8
    assert {name: layer.dense for name, layer in found.items()} == {
        "a": 16 * 3 * 27 * cells,
        "cube": 16 * 16 * 27 * cells,
        "up": 16 * 4 * 4 * cells,
        "blur": 4 * 9 * 4 * 14 * 14,
        "Bare": 4 * 4 * 9 * 12 * 12,
        "out": 2 * 5 * 4,
    }
    assert [name for name, layer in found.items() if layer.why_whole is None] == ["a", "cube", "up"]
    report = project_(model, scheme=scheme(), rate=2.0, input_shape=SHAPE)
    assert report.rate == pytest.approx(2.0, rel=0.01)
    assert torch.count_nonzero(model.cube) < 0.7 * model.cube.numel()
    kept = {layer.name: layer.kept_params for layer in report.layers}
    assert kept["cube"] == int(torch.count_nonzero(model.cube))
    ignored = project_(Bare(), scheme=scheme(), rate=1.05, input_shape=SHAPE, ignore=["cube"])
    assert {x.name: x.why_whole for x in ignored.layers}["cube"] == "ignored"


class Twice(nn.Module):
    """Layer b is used again: by itself, by a layer with its parameter, or with its memory."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.a = nn.Conv3d(3, 16, 3, padding=1)
        size = 1 if how == "linear" else 3
        self.b = nn.Conv3d(16, 16, size, padding=size // 2)
        self.c = nn.Conv3d(16, 16, 3, padding=1)
        if how == "parameter":
            self.c.weight = self.b.weight
        elif how == "memory":
            self.c.weight = nn.Parameter(self.b.weight.data)
        elif how == "module":
            self.c = self.b
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.c(torch.relu(self.b(torch.relu(self.a(x))))).mean((2, 3, 4))
        if self.how == "linear":
            x = functional.linear(x, self.b.weight.flatten(1))
        return self.head(x)


@pytest.mark.parametrize("how", ["parameter", "memory", "module", "linear"])
@pytest.mark.parametrize("algorithm", ["project_", "heuristic", "regularization", "reweighted"])
def test_a_weight_that_is_used_twice_is_one(how, algorithm):
    torch.manual_seed(0)
    model, clip = Twice(how), torch.randn(SHAPE)
    if algorithm == "project_":
        report = project_(model, scheme=scheme(), rate=3.0, input_shape=SHAPE)
    else:
        pruner = pruner_of(model, sgd(model), ALGORITHMS[algorithm](), rate=3.0, input_shape=SHAPE)
        model(clip).square().mean().backward()
        pruner.regularize()
        report = pruner.finalize([clip])
        pruner.strip()
    assert report.rate == pytest.approx(3.0, rel=0.01)
    assert report.rate == pytest.approx(kinds.counted_rate(model, clip), rel=1e-6)
    layers = {layer.name: layer for layer in report.layers}
    if how in ("parameter", "memory"):
        assert layers["b"].tied_to == ("c",)
    weights = {p.data_ptr(): p.numel() for p in model.parameters()}
    assert report.dense_params == sum(weights.values())
    zeros = sum(x.dense_params - x.kept_params for x in layers.values())
    assert report.kept_params == report.dense_params - zeros


def test_a_tied_layer_goes_by_either_name():
    report = project_(
        Twice("parameter"), scheme=scheme(), rate=1.05, input_shape=SHAPE, ignore=["c"]
    )
    assert {x.name: x.pruned for x in report.layers} == {"a": True, "b": False, "head": False}


def test_attention_and_recurrence_are_counted():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    dense = {m.name: m.dense for m in count_macs(layer, (1, 4, 8))}
    assert dense == {
        "self_attn.in_proj_weight": 4 * 8 * 24,
        "self_attn (of activations)": 2 * 4 * 4 * 8,
        "self_attn.out_proj": 4 * 8 * 8,
        "linear1": 4 * 8 * 16,
        "linear2": 4 * 16 * 8,
    }
    recurrent = {m.name: m.dense for m in count_macs(nn.LSTM(8, 4), (3, 2, 8))}
    # The state that the first of three steps reads is zeros, not the input's doing.
    assert recurrent == {"weight_ih_l0": 3 * 2 * 16 * 8, "weight_hh_l0": 2 * 2 * 16 * 4}


class Unusual(nn.Module):
    """Looks at values, makes tensors, keeps some, counts its calls, and cannot be copied."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 16, 3, padding=1)
        self.head = nn.Conv3d(16, 16, 3, padding=1)
        self.register_buffer("calls", torch.zeros(()))
        self.lock, self.cached = threading.Lock(), None

    def forward(self, x):
        self.calls += 1
        if self.cached is None:
            self.cached = torch.arange(8.0)
        if float(x.abs().max()) > 1e6:
            return x
        return self.head(torch.relu(self.conv(x + self.cached)) * torch.ones(16, 1, 1, 1))


def test_a_model_is_left_as_it_was_and_may_look_at_values():
    model = Unusual().train()
    before, random = kinds.state_of(model), torch.get_rng_state()
    assert list(by_name(model)) == ["conv", "head"]
    assert kinds.same_state(model, before)
    assert model.cached is None
    assert model.training
    report = project_(model, scheme=scheme(), rate=2.0, input_shape=SHAPE)
    assert report.rate == pytest.approx(2.0, rel=0.01)
    assert model.cached is None
    assert float(model.calls) == 0
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# The eager backend: what is compiled is not run as such, and others take seconds to import.
compiled = partial(torch.compile, backend="eager")


@pytest.mark.parametrize(
    "wrap", [compiled, nn.DataParallel, lambda m: compiled(nn.DataParallel(m))]
)
def test_wrappers_are_looked_through(wrap):
    model = kinds.two_layers(lambda layer: layer)
    report = project_(wrap(model), scheme=scheme(), rate=2.0, input_shape=SHAPE)
    assert [layer.name for layer in report.layers] == ["0", "2", "6"]
    assert report.rate == pytest.approx(kinds.counted_rate(model, torch.randn(SHAPE)), rel=1e-6)
    wrapped = wrap(model)
    pruner = pruner_of(wrapped, sgd(model), rate=3.0, input_shape=SHAPE)
    assert pruner.finalize([torch.randn(SHAPE)]).rate == pytest.approx(3.0, rel=0.01)
    assert pruner.strip() is wrapped


def test_parts_that_are_compiled_are_run_as_they_are():
    model = kinds.two_layers(lambda layer: layer)
    model[2] = compiled(model[2])
    model.compile(backend="eager")
    report = project_(model, scheme=scheme(), rate=2.0, input_shape=SHAPE)
    assert [layer.name for layer in report.layers] == ["0", "2._orig_mod", "6"]


def test_weights_made_in_inference_mode_are_projected_but_not_trained():
    with torch.inference_mode():
        model = kinds.two_layers(lambda layer: layer)
    report = project_(model, scheme=scheme(), rate=2.0, input_shape=SHAPE)
    assert report.rate == pytest.approx(kinds.counted_rate(model, torch.randn(SHAPE)), rel=1e-6)
    with pytest.raises(InputError, match=r"0\.weight was made in inference mode"):
        pruner_of(model, sgd(model), input_shape=SHAPE)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Sequential(nn.LazyConv3d(8, 3)), "LazyConv3d without weights yet"),
        (lambda: torch.jit.script(nn.Sequential(nn.Conv3d(3, 8, 3))), "TorchScript"),
        (lambda: kinds.two_layers(lambda x: x).to("meta"), "meta device"),
        (lambda: "a name", "torch.nn.Module is pruned, got a str"),
        (lambda: kinds.two_layers(lambda x: x, channels=4), r"does not take an input \[1, 3, 4,"),
    ],
)
def test_what_cannot_be_pruned_is_refused_in_a_line(model, message):
    with pytest.raises(InputError, match=message):
        project_(model(), scheme=scheme(), rate=2.0, input_shape=SHAPE)


class Pair(nn.Module):
    """A bilinear layer, whose products nothing shows, between two others."""

    def __init__(self):
        super().__init__()
        self.first, self.both = nn.Conv3d(3, 16, 3, padding=1), nn.Bilinear(16, 16, 16)
        self.second = nn.Conv1d(16, 16, 1)

    def forward(self, x):
        x = self.first(x).flatten(2).mean(2)
        return self.second(self.both(x, x).unsqueeze(2))


@pytest.mark.parametrize("algorithm", ["project_", *ALGORITHMS])
def test_what_cannot_be_counted_is_no_obstacle_where_it_is_ignored(algorithm):
    torch.manual_seed(0)
    model, clip = Pair(), torch.randn(SHAPE)
    before = model.both.weight.detach().clone()
    options = {"rate": 2.0, "input_shape": SHAPE, "ignore": ["both"]}
    if algorithm == "project_":
        report = project_(model, scheme=scheme(), **options)
    else:
        pruner = pruner_of(model, sgd(model), ALGORITHMS[algorithm](), **options)
        report = pruner.finalize([clip])
    assert {layer.name: layer.why_whole for layer in report.layers} == {
        "first": None,
        "both": "its work cannot be counted, and is not in the rate",
        "second": None,
    }
    assert report.rate == pytest.approx(2.0, rel=0.01)
    assert report.rate == pytest.approx(kinds.counted_rate(model, clip), rel=1e-6)
    assert torch.equal(model.both.weight, before)


def test_an_operator_that_hides_its_products_is_refused():
    with pytest.raises(InputError, match=r"layer 'both', a Bilinear: operator .*trilinear reads"):
        count_macs(Pair(), SHAPE)
