"""torch.compile(model, backend="rt3d") against the module itself; what is refused."""

from importlib.metadata import entry_points

import pytest
import torch
from torch import nn

import rt3d_tvm as rt
from rt3d_tvm.api.torch_backend import rt3d

# Of the largest value: sums of at most 216 products in float32, in another order.
CLOSE = 216 * 2.0**-24


@pytest.fixture(autouse=True)
def compiled_anew():
    torch.manual_seed(0)
    yield
    torch.compiler.reset()


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.Dropout(), nn.Conv3d(8, 4, 3))
    ).eval()


def compiled(module: nn.Module, **options):
    return torch.compile(module, backend=rt3d, dynamic=False, options=options or None)


def assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (got - wanted).abs().max() <= CLOSE * wanted.abs().max()


def test_torch_finds_the_backend_by_its_name():
    (found,) = entry_points(group="torch_dynamo_backends", name="rt3d")
    assert found.load() is rt3d


def test_each_shape_is_computed_as_by_the_module_itself():
    model = network()
    rt.prune(model, rate=2.0, group="8x4", example_inputs=torch.zeros(1, 3, 6, 10, 10))
    fast = compiled(model)
    with torch.inference_mode():
        for shape in ((1, 3, 6, 10, 10), (2, 3, 6, 12, 10), (1, 3, 6, 10, 10)):
            clip = torch.randn(shape)
            assert_close(fast(clip), model(clip))


class TwoStreams(nn.Module):
    """Two inputs, two outputs, and a print that breaks the graph between them."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.Conv3d(3, 4, 3), nn.Conv3d(3, 4, 3)

    def forward(self, slow, fast):
        y = self.slow(slow), self.fast(fast)
        torch._dynamo.graph_break()
        return y[0] + y[1], (y[0] * y[1]).relu()


def test_several_inputs_outputs_and_graphs():
    model = TwoStreams().eval()
    clips = torch.randn(1, 3, 4, 8, 8), torch.randn(1, 3, 4, 8, 8).transpose(3, 4)
    with torch.no_grad():
        for got, wanted in zip(compiled(model, threads=1)(*clips), model(*clips), strict=True):
            assert_close(got, wanted)


def run_with_gradients():
    compiled(network())(torch.randn(1, 3, 6, 10, 10))


@torch.no_grad()
def run_in_training():
    compiled(network().train())(torch.randn(1, 3, 6, 10, 10))


@torch.no_grad()
def run_dropout_in_training():
    compiled(nn.Sequential(nn.Conv3d(3, 4, 1), nn.Dropout3d()))(torch.randn(1, 3, 2, 4, 4))


@torch.no_grad()
def run_with_open_sizes():
    torch.compile(network(), backend=rt3d, dynamic=True)(torch.randn(2, 3, 6, 10, 10))


@torch.no_grad()
def run_with_unknown_options():
    compiled(network(), tile=8)(torch.randn(1, 3, 6, 10, 10))


@torch.no_grad()
def run_after_a_change():
    model = network()
    fast, clip = compiled(model), torch.randn(1, 3, 6, 10, 10)
    fast(clip)
    model[0].weight.mul_(2)
    fast(clip)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (run_with_gradients, "gradients are asked for: call the module in torch.inference_mode"),
        (run_in_training, r"batch_norm in training: call eval\(\) on the module first"),
        (run_dropout_in_training, r"dropout3d in training: call eval\(\)"),
        (run_with_open_sizes, "a size that is left open: torch.compile"),
        (run_with_unknown_options, "options 'tile': threads and strict are accepted"),
        (run_after_a_change, "weights were written to since it was compiled"),
    ],
)
def test_what_is_no_frozen_module_is_refused(refused, message):
    with pytest.raises(Exception, match=message):
        refused()
