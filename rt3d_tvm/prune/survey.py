"""The work of a model, weight by weight: what it multiplies, how often, and what can be pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor, nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.filter_axes import FilterAxes
from rt3d_tvm.prune.inputs import ModelInputs
from rt3d_tvm.prune.probe import Tensors, call, device_of, on_the_side, unwrapped
from rt3d_tvm.prune.products import Product, Products, Source, WeightSources, running_module
from rt3d_tvm.prune.weights import ComputedWeight, LayerWeight, weight_at

# Why a linear layer stays whole if nobody asks for more: the paper counts it and prunes it not.
LINEAR = "a linear layer"
_MATRIX_PRODUCT, _UNCOUNTED = "matrix product", "uncounted"


@dataclass(frozen=True, kw_only=True)
class LayerWork:
    """One weight and the products that read it, in all calls of a run.

    Every weight is used once at each of ``positions`` (batch included). ``tied`` are further
    layers of the same weight, ``sources`` the dotted names that it has in the model. ``why_whole``
    says why it cannot be pruned, None if it can. ``weight`` is None for products without one of
    their own, whose ``name`` is that of the module: ``kept`` is then what the survey found,
    otherwise `kept_macs` counts.
    """

    name: str
    tied: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    shape: tuple[int, ...]
    conv_groups: int
    inputs_first: bool = False
    positions: int
    dense: int
    kept: int
    weight: LayerWeight | None
    why_whole: str | None

    @property
    def axes(self) -> FilterAxes:
        """Where the weight has its filters."""
        return FilterAxes(conv_groups=self.conv_groups, inputs_first=self.inputs_first)

    def filters(self) -> Tensor:
        """The weight in effect by filters, without a gradient."""
        return self.axes.filters(self.weight.in_effect().detach())

    @property
    def filter_shape(self) -> tuple[int, ...]:
        return self.axes.shape(self.shape)

    @property
    def kept_macs(self) -> int:
        """MACs by weights that are not zero now; all of them for weights without values."""
        weight = None if self.weight is None else self.weight.in_effect()
        if weight is None or weight.is_meta:
            return self.kept
        return int(torch.count_nonzero(weight)) * self.positions


@dataclass(frozen=True)
class Survey:
    """What was found in a model, in execution order. ``model`` is without wrappers."""

    model: nn.Module
    inputs: ModelInputs
    layers: tuple[LayerWork, ...]
    # Layers that stay whole, so that even one whose work cannot be counted is no obstacle.
    ignore: tuple[str, ...] = ()

    def layer(self, name: str) -> LayerWork | None:
        """By its name, by that of a tied one, or by a parameter's; None for any other name."""
        for layer in self.layers:
            if name in (layer.name, *layer.tied, *layer.sources):
                return layer
        return None

    def with_plain_weights(self, names: Iterable[str]) -> Survey:
        """Make the weights of these layers plain parameters of the model, see `weights`."""
        names, layers = set(names), []
        for layer in self.layers:
            if layer.name in names and isinstance(layer.weight, ComputedWeight):
                layer.weight.bake_()
                plain = LayerWeight(layer.weight.module, layer.weight.attribute)
                layer = replace(layer, weight=plain)
            layers.append(layer)
        return replace(self, layers=tuple(layers))


@dataclass
class _Found:
    """Products of one weight, added up. ``source`` None: they have none that is known."""

    source: Source | None
    module: str
    of_activations: bool
    shape: tuple[int, ...]
    macs: int = 0
    kept: int = 0
    groups: set[int] = field(default_factory=set)
    inputs_first: set[bool] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    as_it_is: bool = True


def survey_model(
    model: nn.Module,
    *,
    input_shape: Sequence[int] | ModelInputs | None = None,
    example_inputs: object = None,
    ignore: Iterable[str] = (),
) -> Survey:
    """Run the model and find its work. It is left as it was.

    On torch's meta device, without arithmetic or memory. A model that makes tensors of its own, or
    looks at values, is run on the real ones instead, and so is one that computes weights in its
    forward(), whose zeros are to be counted.

    InputError for a model that cannot be counted or does not take the input, see `ModelInputs.of`.
    A layer in ``ignore`` whose work cannot be counted has none.
    """
    model, ignore = unwrapped(model), tuple(ignore)
    inputs = ModelInputs.of(model, input_shape=input_shape, example_inputs=example_inputs)
    meta = device_of(model).type == "meta"
    try:
        found = _run(model, inputs, ignore, meta=True)
    except InputError:
        if meta:
            raise
        found = _run(model, inputs, ignore, meta=False)
    else:
        computed = any(f.source is None and not f.of_activations for f in found.values())
        if computed and not meta:
            found = _run(model, inputs, ignore, meta=False)
    return Survey(model, inputs, tuple(_layer(model, f) for f in found.values()), ignore)


def observe(
    model: nn.Module,
    values: ModelInputs,
    *,
    tensors: Tensors,
    found: Callable[[Product], None],
    modes: Iterable[AbstractContextManager] = (),
    ignore: Iterable[str] = (),
    uncounted: Callable[[Source], None] | None = None,
) -> object:
    """The output of a run, ``found`` being told of every product in it.

    InputError for one that cannot be counted, unless its layer is in ``ignore``; ``uncounted`` is
    told of it then. To be called `on_the_side`.
    """

    def hidden(source: Source, reason: str) -> None:
        if not {*source.layers, *source.names} & {*ignore}:
            raise InputError(reason)
        if uncounted is not None:
            uncounted(source)

    sources = WeightSources(tensors)
    with torch.no_grad(), running_module(model) as module_now, sources.watching(model):
        products = Products(values, sources, module_now, found, hidden)
        return call(model, values, tensors=tensors, modes=(*modes, products))


def _run(
    model: nn.Module, inputs: ModelInputs, ignore: tuple[str, ...], *, meta: bool
) -> dict[object, _Found]:
    found: dict[object, _Found] = {}

    def uncounted(source: Source) -> None:
        found.setdefault(source, _Found(source, "", False, ())).operators.add(_UNCOUNTED)

    with on_the_side(model):
        observe(
            model,
            inputs.on_meta(model) if meta else inputs.noise(model),
            tensors=Tensors.on_meta(model) if meta else Tensors.copied(model),
            found=lambda product: _add(found, product),
            # Tensors that forward() makes are to be where the others are.
            modes=[torch.device("meta")] if meta else [],
            ignore=ignore,
            uncounted=uncounted,
        )
    return found


def _add(found: dict[object, _Found], product: Product) -> None:
    weight, source = product.weight, product.source
    key = source or (product.module, weight is None)
    shape = () if weight is None else tuple(weight.shape)
    entry = found.setdefault(key, _Found(source, product.module, weight is None, shape))
    share = 1.0
    if weight is not None and not weight.is_meta and weight.numel():
        share = int(torch.count_nonzero(weight)) / weight.numel()
    entry.macs += product.macs
    entry.kept += round(product.macs * share)
    entry.operators.add(product.operator)
    entry.groups.add(product.conv_groups)
    entry.inputs_first.add(product.inputs_first)
    entry.as_it_is &= product.as_it_is


def _layer(model: nn.Module, found: _Found) -> LayerWork:
    source = found.source
    if source is None:
        name = found.module or type(model).__name__
        return LayerWork(
            name=f"{name} (of activations)" if found.of_activations else name,
            shape=found.shape,
            conv_groups=1,
            positions=found.macs // max(prod(found.shape), 1),
            dense=found.macs,
            kept=found.kept,
            weight=None,
            why_whole="a product of activations, without weights"
            if found.of_activations
            else "its weight is computed in forward()",
        )
    weight = weight_at(model, *source.names)
    shape = tuple(weight.in_effect().shape)
    return LayerWork(
        name=source.layers[0],
        tied=source.layers[1:],
        sources=source.names,
        shape=shape,
        conv_groups=max(found.groups, default=1),
        inputs_first=found.inputs_first == {True},
        positions=found.macs // prod(shape),
        dense=found.macs,
        kept=found.macs,
        weight=weight,
        why_whole=_why_whole(weight, shape, found),
    )


def _why_whole(weight: LayerWeight, shape: tuple[int, ...], found: _Found) -> str | None:
    """Why a weight cannot be pruned; None if it can. `LINEAR` if nothing else speaks against it."""
    if _UNCOUNTED in found.operators:
        return "its work cannot be counted, and is not in the rate"
    if not 2 <= len(shape) <= 5:
        return f"a weight of shape {list(shape)}"
    if not weight.parameters():
        return "a buffer, no parameter"
    if not found.as_it_is:
        return "its weight is a parameter under another shape"
    if len(found.groups) > 1:
        return "its weight is used with different numbers of conv groups"
    if len(found.inputs_first) > 1:
        return "its weight is used with its filters on one axis and on the other"
    groups = max(found.groups)
    axes = FilterAxes(conv_groups=groups, inputs_first=found.inputs_first == {True})
    if groups > 1 and axes.shape(shape)[1] == 1:
        # A filter of one channel is no part of a kernel group; kernels skip no zeros in it.
        return "depthwise: its filters read one channel each"
    value = weight.in_effect()
    if not value.is_floating_point():
        return f"its weights are {value.dtype}"
    if any(n > 1 and step == 0 for n, step in zip(shape, value.stride(), strict=True)):
        return "its weights share their memory"
    return LINEAR if found.operators == {_MATRIX_PRODUCT} else None
