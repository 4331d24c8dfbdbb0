"""The importance of weights by NISP's propagation: what the layers after make of a channel."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.prune.inputs import ModelInputs, leaves
from rt3d_tvm.prune.probe import Tensors, call, on_the_side
from rt3d_tvm.prune.products import WeightSources
from rt3d_tvm.prune.survey import Survey, survey_model
from rt3d_tvm.prune.weights import ComputedWeight

# Products by a weight, and by how many axes their channels are followed.
_CONVOLUTIONS = {
    **dict.fromkeys((torch.conv1d, torch.conv_transpose1d), 1),
    **dict.fromkeys((torch.conv2d, torch.conv_transpose2d), 2),
    **dict.fromkeys((torch.conv3d, torch.conv_transpose3d), 3),
}
_PRODUCTS = {**_CONVOLUTIONS, functional.linear: 0}
# Products of two factors, either of which may be the weight.
_MATRIX_PRODUCTS = (
    *(torch.matmul, Tensor.matmul, Tensor.__matmul__),
    *(torch.mm, Tensor.mm, torch.bmm, Tensor.bmm),
)
# Norms that take their statistics from the input, which would divide the importance out.
_LIVE_NORMS = (
    *(functional.group_norm, functional.layer_norm, functional.instance_norm),
    *(functional.rms_norm, functional.local_response_norm),
)


def weight_importance(
    model: nn.Module | Survey,
    input_shape: Sequence[int] | ModelInputs | None,
    strength: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """S[m] * |w| * a[n] of each weight (float64), a being the ``strength`` of input channels.

    InputError where S cannot be had, see `channel_importance`.
    """
    survey = _surveyed(model, input_shape)
    output = channel_importance(survey, None, strength)
    importance = {}
    for name, a in strength.items():
        layer = survey.layer(name)
        magnitude = layer.filters().double().abs()
        filters = magnitude.shape[0] // layer.conv_groups
        # In a grouped convolution weight[m, n] reads the n-th channel of the group of m.
        read = a.reshape(layer.conv_groups, -1).repeat_interleave(filters, dim=0)
        shaped = [1] * (magnitude.dim() - 2)
        importance[name] = layer.axes.weight(
            magnitude * output[name].reshape(-1, 1, *shaped) * read.reshape(*read.shape, *shaped)
        )
    return importance


def channel_importance(
    model: nn.Module | Survey,
    input_shape: Sequence[int] | ModelInputs | None,
    names: Iterable[str],
) -> dict[str, Tensor]:
    """S of the output channels of each named layer, in float64: NISP's propagation.

    It is the gradient of the summed outputs of the same network with the absolute value of every
    parameter, and running means of 0: on an input of ones its activations are positive, ReLU lets
    all of it through, and autograd follows whatever joins and forks the model has. Norms that take
    their statistics from the input are passed over. Float64, because the sums grow by the square
    root of the fan-in with every layer. A weight that is used twice has the sum of both uses.

    InputError for a model that does not run so, or whose sums are not finite, as in one of more
    than some 150 layers.
    """
    survey, names = _surveyed(model, input_shape), list(names)
    model = survey.model
    with on_the_side(model):
        tensors = _absolute(Tensors.copied(model), survey)
        sources = WeightSources(tensors)
        magnitudes = _Magnitudes(survey, names, sources)
        with torch.enable_grad(), sources.watching(model):
            values = survey.inputs.ones(model)
            out = call(model, values, tensors=tensors, modes=[magnitudes])
            total = sum(t.sum() for t in leaves(out) if _is_float(t))
            shifts = [magnitudes.shifts.get(name) for name in names]
            found = _gradients(total, [shift for shift in shifts if shift is not None])
    importance = {}
    for name, shift in zip(names, shifts, strict=True):
        if shift is None:
            raise InputError(f"layer {name!r} does not run on an input of ones in float64")
        importance[name] = found.pop(0)
        if not bool(torch.isfinite(importance[name]).all()):
            raise InputError(
                f"the importance of layer {name!r} is not finite: the model is too deep"
            )
    return importance


@dataclass(eq=False)
class _Magnitudes(TorchFunctionMode):
    """Products by the magnitude of their weights, and a zero added to each of their channels.

    The gradient of that zero is the sum over all positions and calls.
    """

    survey: Survey
    names: Sequence[str]
    sources: WeightSources
    shifts: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in _LIVE_NORMS or _is_live_batch_norm(function, args, kwargs):
            # A copy: what follows may write into it.
            return (args[0] if args else kwargs["input"]).clone()
        if function is functional.multi_head_attention_forward:
            return self._attention(args, kwargs)
        if function in _MATRIX_PRODUCTS and len(args) == 2:
            return self._matrix_product(function, *args)
        if function not in _PRODUCTS:
            return function(*args, **kwargs)
        named = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
        weight, bias = named.pop("weight"), named.pop("bias", None)
        out = function(
            named.pop("input").to(weight.dtype),
            weight.abs(),
            None if bias is None else bias.abs(),
            *args[3:],
            **named,
        )
        axis = out.dim() - 1 - _PRODUCTS[function]
        return self._shifted(out, weight, axis)

    def _matrix_product(self, function, a: Tensor, b: Tensor) -> Tensor:
        """Parameters have no sign already; computed weights lose it here."""
        first, _ = self.sources.of(a)
        second, _ = self.sources.of(b)
        if first is None and second is None:
            return function(a, b)
        out = function(a.abs() if first else a, b.abs() if second else b)
        # Of x @ W the filters are the last axis, of W @ x the one before the positions.
        axis = out.dim() - (1 if second is not None or b.dim() == 1 else 2)
        return self._shifted(out, b if second else a, axis)

    def _attention(self, args: tuple, kwargs: dict) -> object:
        """Attention calls no function that could be seen, but adds biases to its two products."""
        signature = inspect.signature(functional.multi_head_attention_forward)
        named = signature.bind(*args, **kwargs).arguments
        for which in ("in_proj", "out_proj"):
            weight, bias = named.get(f"{which}_weight"), f"{which}_bias"
            shift = None if weight is None else self._shift_of(weight, weight.shape[0])
            if shift is not None:
                named[bias] = shift if named.get(bias) is None else named[bias] + shift
        return functional.multi_head_attention_forward(**named)

    def _shifted(self, out: Tensor, weight: Tensor, axis: int) -> Tensor:
        shift = self._shift_of(weight, out.shape[axis])
        return out if shift is None else out + shift.reshape(-1, *[1] * (out.dim() - 1 - axis))

    def _shift_of(self, weight: Tensor, channels: int) -> Tensor | None:
        """The zeros for this weight's channels; None if nobody asks for them."""
        source, _ = self.sources.of(weight)
        layer = None if source is None else self.survey.layer(source.names[0])
        if layer is None or layer.name not in self.names:
            return None
        if layer.name not in self.shifts:
            self.shifts[layer.name] = torch.zeros(
                channels, dtype=weight.dtype, device=weight.device, requires_grad=True
            )
        return self.shifts[layer.name]


def _is_live_batch_norm(function: object, args: tuple, kwargs: Mapping) -> bool:
    if function is not functional.batch_norm:
        return False
    mean = args[1] if len(args) > 1 else kwargs.get("running_mean")
    return mean is None or kwargs.get("training", args[5] if len(args) > 5 else False)


def _absolute(tensors: Tensors, survey: Survey) -> Tensors:
    """Magnitudes in float64; what weights are computed from keeps its sign, they lose theirs."""
    computed = {
        id(parameter)
        for layer in survey.layers
        if isinstance(layer.weight, ComputedWeight)
        for parameter in layer.weight.parameters()
    }
    own = dict(survey.model.named_parameters(remove_duplicate=False))
    by_name, made = {}, {}
    for name, tensor in tensors.by_name.items():
        if id(tensor) not in made:
            value = tensor.double() if tensor.is_floating_point() else tensor
            if name in own and id(own[name]) not in computed:
                value = value.abs()
            elif name.endswith("running_mean"):
                value = torch.zeros_like(value)
            made[id(tensor)] = value
        by_name[name] = made[id(tensor)]
    return Tensors(by_name, tensors.names)


def _gradients(total: object, of: list[Tensor]) -> list[Tensor]:
    if not (isinstance(total, Tensor) and total.requires_grad):
        raise InputError("the importance of layers needs gradients, which this forward() stops")
    try:
        found = torch.autograd.grad(total, of, allow_unused=True)
    except RuntimeError as error:
        reason = words_of(error, lines=1)
        raise InputError(f"the importance of layers needs gradients: {reason}") from error
    return [
        torch.zeros_like(shift) if gradient is None else gradient  # nothing downstream reads it
        for shift, gradient in zip(of, found, strict=True)
    ]


def _is_float(leaf: object) -> TypeGuard[Tensor]:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _surveyed(model: nn.Module | Survey, input_shape: Sequence[int] | ModelInputs | None) -> Survey:
    return model if isinstance(model, Survey) else survey_model(model, input_shape=input_shape)
