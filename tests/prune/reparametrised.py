"""Ways to compute a convolution's weight, and a count of what a model really multiplies by."""

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune

SHAPE = (1, 3, 4, 8, 8)
_PRODUCTS = ("conv1d", "conv2d", "conv3d", "linear")


class Counted(torch.overrides.TorchFunctionMode):
    """MACs of the convolutions and linear layers of a run: all, and by weights not zero."""

    def __init__(self):
        super().__init__()
        self.dense = self.kept = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        transposed = name.startswith("conv_transpose")
        if name in _PRODUCTS or transposed:
            x, weight = args[:2]
            axis = 1 if out.dim() > 2 else -1
            positions = x.numel() // x.shape[1] if transposed else out.numel() // out.shape[axis]
            self.dense += weight.numel() * positions
            self.kept += int(torch.count_nonzero(weight)) * positions
        return out


def counted_rate(model, *inputs, **named):
    """Dense over kept MACs of one forward pass in eval mode."""
    with torch.no_grad(), Counted() as found:
        model.eval()(*inputs, **named)
    return found.dense / found.kept


class Standardised(nn.Module):
    """Weight standardisation as a parametrization."""

    def forward(self, weight):
        axes = tuple(range(1, weight.dim()))
        return (weight - weight.mean(axes, keepdim=True)) / weight.std(axes, keepdim=True)


class StandardisedConv3d(nn.Conv3d):
    """Weight standardisation in forward(), where nothing can be put behind it."""

    def forward(self, x):
        weight = Standardised()(self.weight)
        return functional.conv3d(x, weight, self.bias, self.stride, self.padding)


def standardised(layer):
    parametrize.register_parametrization(layer, "weight", Standardised())
    return layer


def with_bias_too(layer):
    """Two parametrizations on the weight, and one on the bias."""

    class Scaled(nn.Module):
        def forward(self, bias):
            return 0.5 * bias

    parametrize.register_parametrization(layer, "bias", Scaled())
    return parametrizations.spectral_norm(parametrizations.weight_norm(layer))


def hooked(layer):
    """A forward pre-hook of one's own that makes the weight of another parameter."""
    layer.raw = nn.Parameter(layer.weight.detach().clone())
    del layer._parameters["weight"]

    def make(module, _inputs):
        module.weight = module.raw - module.raw.mean()

    layer.register_forward_pre_hook(make)
    make(layer, None)
    return layer


def rewritten(layer):
    """A forward pre-hook that writes into the parameter."""

    def write(module, _inputs):
        module.weight.data.sub_(module.weight.data.mean())

    layer.register_forward_pre_hook(write)
    return layer


MASKABLE = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm of the whole": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "spectral_norm": parametrizations.spectral_norm,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "standardised": standardised,
    "with the bias too": with_bias_too,
    "filters masked by torch": lambda layer: prune.ln_structured(layer, "weight", 0.25, 2, 0),
    "weights masked by torch": lambda layer: prune.random_unstructured(layer, "weight", 0.3),
}


def two_layers(change, *, channels=3):
    """Two convolutions, changed, and a classifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        change(nn.Conv3d(channels, 32, 3, padding=1)),
        nn.ReLU(),
        change(nn.Conv3d(32, 32, 3, padding=1)),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def state_of(model):
    """A copy of all values, by name."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(model, before):
    """Whether a model has the values and names that it had."""
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[k], before[k]) for k in now)
