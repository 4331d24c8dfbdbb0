"""One-shot magnitude projection of a whole model to a pruning rate of its overall MACs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite

from torch import Tensor, nn

from rt3d_tvm.arguments import as_names
from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.held_masks import mask_
from rt3d_tvm.prune.inputs import ModelInputs
from rt3d_tvm.prune.probe import DoesNotRunError, Tensors, on_the_side
from rt3d_tvm.prune.products import Product
from rt3d_tvm.prune.reach import warn_if_severed
from rt3d_tvm.prune.report import LayerReport, ProjectionReport, print_report, report_masks
from rt3d_tvm.prune.rollback import unchanged_on_error
from rt3d_tvm.prune.schemes import Scheme, scheme_of
from rt3d_tvm.prune.survey import LINEAR, LayerWork, Survey, observe, survey_model
from rt3d_tvm.prune.threshold import unit_macs, units_of, units_to_keep
from rt3d_tvm.prune.weights import weight_at
from topi_sparse.kernel_group import KernelGroup

__all__ = [
    "LayerReport",
    "ProjectionReport",
    "apply_masks_",
    "check_masks_hold",
    "check_rate",
    "choose_masks",
    "layer_schemes",
    "print_report",
    "project_",
    "unit_rate",
    "warn_of_single_zeros",
]

# By how much the two may differ without a word: the rounding of a rate that is met.
_SINGLE_ZEROS = 1.01


def project_(
    model: nn.Module,
    *,
    scheme: Scheme | str = "kgs",
    group: KernelGroup | str | None = None,
    rate: float,
    input_shape: Sequence[int] | None = None,
    example_inputs: object = None,
    order: int = 2,
    ignore: Iterable[str] = (),
    linear: bool = False,
) -> ProjectionReport:
    """Zero the least important units of the model's convolutions, in place, down to ``rate``.

    With ``linear`` those of its linear layers too.

    A weight that is computed, by weight_norm for instance, becomes a plain parameter on the way;
    an optimizer that was made before does not hold it. Arguments and errors are those of
    `choose_masks`; also InputError for a layer whose forward() undoes the zeros. On any error the
    model is what it was.
    """
    scheme = scheme_of(scheme, group)
    ignore = as_names(ignore, "ignore")
    survey = _surveyed(model, input_shape, example_inputs, ignore)
    layers = {"scheme": scheme, "ignore": ignore, "linear": linear}
    masks = choose_masks(survey, rate=rate, order=order, **layers)
    with unchanged_on_error(survey.model):
        pruned = survey.with_plain_weights(masks)
        mask_(pruned, masks)
        check_masks_hold(pruned, masks)
        schemes = layer_schemes(pruned, **layers)
        report = report_masks(
            pruned,
            masks,
            schemes,
            algorithm=f"projection by l{order} norm",
            target_rate=rate,
        )
        warn_of_single_zeros(report, unit_rate(pruned, schemes))
        warn_if_severed(pruned)
    return report


def choose_masks(
    model: nn.Module | Survey,
    *,
    scheme: Scheme,
    rate: float,
    input_shape: Sequence[int] | ModelInputs | None = None,
    example_inputs: object = None,
    order: int = 2,
    ignore: Iterable[str] = (),
    linear: bool = False,
    group_sizes: Mapping[str, KernelGroup] | None = None,
    importance: Mapping[str, Tensor] | None = None,
    exact: bool = True,
) -> dict[str, Tensor]:
    """Which weights stay, by layer name: bool masks of the weights' shapes.

    ``rate`` is dense / kept MACs of the whole model, as the paper counts: linear layers, but with
    ``linear``, and those named in ``ignore`` are in the total on both sides but stay whole.
    ``input_shape`` or ``example_inputs`` is what the model is called with (`ModelInputs.of`).

    One threshold serves all layers. It cuts the mean norm of each unit (see `Scheme.mean_norms`)
    over the RMS of its layer, so that a layer with a few strong units and many weak ones gives
    more than one whose units are alike, and a layer's overall scale, which BatchNorm undoes,
    does not matter. Where the unit at the threshold is too large to meet the rate with it or
    without it, smaller ones just above the threshold go in its place.

    The best unit of a layer always stays, so that no layer is gone whole; what it reads may still
    be pruned in the layer before (`warn_if_severed`). A filter has no such floor: under ``filter``
    that would forbid pruning, and under the other schemes a row block whose units are all weak is
    better spent elsewhere. `LayerReport.empty_filters` counts those that lost everything.

    ``group_sizes`` are the kernel groups of layers that have one of their own. ``importance``
    has a tensor of the weight's shape for each layer, to be compared in the weights' place, and
    by its rank in the layer alone: all layers then give the same share. Units and filters that
    are zero already count as pruned in either case. If not ``exact``, the threshold stays as high
    as it can without exceeding the rate, for a step on the way to a higher one.

    InputError for a rate below 1 or beyond reach (with the highest that is not), for one that
    this scheme's units are too coarse to meet within 1 % (with the nearest they do), for a name
    in ``ignore`` or ``group_sizes`` that is not a layer, and for weights that are not finite.
    """
    check_rate(rate)
    ignore = as_names(ignore, "ignore")
    survey = _surveyed(model, input_shape, example_inputs, ignore)
    pruned = {"scheme": scheme, "ignore": ignore, "linear": linear, "group_sizes": group_sizes}
    schemes = layer_schemes(survey, **pruned)
    layers = [layer for layer in survey.layers if layer.name in schemes]
    units = [units_of(x, schemes[x.name], order, (importance or {}).get(x.name)) for x in layers]
    keep = units_to_keep(
        units,
        whole=sum(layer.kept_macs for layer in survey.layers if layer.name not in schemes),
        dense=sum(layer.dense for layer in survey.layers),
        rate=rate,
        exact=exact,
        staying=_staying(survey, schemes),
    )
    return {
        layer.name: _mask(layer, schemes[layer.name], kept.reshape(of.grid))
        for layer, of, kept in zip(layers, units, keep, strict=True)
    }


def _mask(layer: LayerWork, scheme: Scheme, kept: Tensor) -> Tensor:
    """Units that are kept, as a mask of the layer's weight."""
    filters = scheme.spread(kept, layer.filter_shape, groups=layer.conv_groups)
    return layer.axes.weight(filters)


def check_rate(rate: float) -> None:
    """InputError for what no model can be pruned to."""
    if not (isinstance(rate, (int, float)) and isfinite(rate) and rate >= 1):
        raise InputError(f"a pruning rate is a finite number of at least 1, got {rate}")


def layer_schemes(
    model: nn.Module | Survey,
    *,
    scheme: Scheme,
    input_shape: Sequence[int] | ModelInputs | None = None,
    example_inputs: object = None,
    ignore: Iterable[str] = (),
    linear: bool = False,
    group_sizes: Mapping[str, KernelGroup] | None = None,
) -> dict[str, Scheme]:
    """The scheme of each layer that is to be pruned, in execution order.

    These are the convolutions that run, transposed ones too, and with ``linear`` the linear layers,
    which are not in ``ignore``; but for depthwise ones and those whose weight cannot be pruned
    (`LayerWork.why_whole`). InputError for a name that is no such layer, for one that is both
    ignored and given a group, and if no layer is left.
    """
    if not isinstance(scheme, Scheme):
        raise InputError(
            f"scheme {scheme!r}: a Scheme is accepted, such as Scheme(name='kgs', group='8x4')"
        )
    ignore = as_names(ignore, "ignore")
    survey = _surveyed(model, input_shape, example_inputs, ignore)
    pruned = (None, LINEAR) if linear else (None,)
    prunable = [layer.name for layer in survey.layers if layer.why_whole in pruned]
    everything = [layer.name for layer in survey.layers]
    ignored = _known("no layer to ignore named", survey, ignore, everything)
    groups = group_sizes or {}
    sizes = _known("no convolution to set a group size for named", survey, groups, prunable)
    if both := sorted(ignored.keys() & sizes.keys()):
        raise InputError(f"ignored and given a group size at once: {', '.join(both)}; take one")
    schemes = {
        name: replace(scheme, group=groups[sizes[name]] if name in sizes else scheme.group)
        for name in prunable
        if name not in ignored
    }
    if not schemes:
        whole = "; ".join(f"{x.name}: {x.why_whole}" for x in survey.layers if x.why_whole)
        raise InputError(
            "the model has no convolution to prune; convolutions of 1 to 3 dimensions are pruned, "
            "transposed ones too, and linear layers where linear=True"
            + (f" ({whole})" if whole else "")
        )
    return schemes


def unit_rate(survey: Survey, schemes: Mapping[str, Scheme]) -> float:
    """Dense MACs / those of the units that are left: what kernels have to compute.

    Less than by single weights, where units that stay have zeros in them.
    """
    dense = sum(layer.dense for layer in survey.layers)
    left = sum(
        unit_macs(layer, schemes[layer.name]) if layer.name in schemes else layer.kept_macs
        for layer in survey.layers
    )
    return dense / left if left else inf


def warn_of_single_zeros(report: ProjectionReport, computed: float) -> None:
    """Warn where a rate counts zeros that kernels compute with, ``computed`` being the rate less
    those.
    """
    if report.rate > computed * _SINGLE_ZEROS:
        warnings.warn(
            f"the rate of {report.rate:.3g} counts zeros in units that stay, from an earlier "
            f"pruning of single weights; kernels skip whole units, which makes {computed:.3g}x",
            stacklevel=3,
        )


def apply_masks_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Zero, in place, every weight whose mask is False, by names of layers or parameters."""
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        own = name if name in parameters else f"{name}.weight".removeprefix(".")
        weight_at(model, own).mask_(~mask)


def check_masks_hold(survey: Survey, masks: Mapping[str, Tensor]) -> None:
    """Run the model; InputError for a layer that does not multiply by zeros where it is pruned.

    Such a layer makes its weight anew in every pass, by a hook or in its forward(). A model that
    does not run as it is, for instance only inside of autocast, is warned of.
    """
    model, seen = survey.model, set()

    def look(product: Product) -> None:
        layer = None if product.source is None else survey.layer(product.source.names[0])
        if layer is None or layer.name not in masks:
            return
        seen.add(layer.name)
        # Under other axes, as of a tied linear layer, it is the same memory.
        if product.as_it_is and bool(product.weight.masked_select(~masks[layer.name]).any()):
            raise InputError(_undone(layer.name, layer.weight.module))

    with on_the_side(model):
        values = survey.inputs.noise(model)
        try:
            tensors = Tensors.copied(model)
            observe(model, values, tensors=tensors, found=look, ignore=survey.ignore)
        except DoesNotRunError as error:
            warnings.warn(f"not checked whether pruned weights stay zero: {error}", stacklevel=3)
            return
    for name in masks:
        if name not in seen:
            raise InputError(_undone(name, survey.layer(name).weight.module))


def _undone(name: str, module: nn.Module) -> str:
    return (
        f"layer {name!r}, a {type(module).__name__}, does not keep its zeros: a hook or its "
        "forward() changes the weight in every pass; make the weight a plain parameter first, or "
        f"name the layer in ignore"
    )


def _staying(survey: Survey, schemes: Mapping[str, Scheme]) -> str:
    """What keeps a rate from being higher and could be changed, as words to append."""
    left = [x for x in survey.layers if x.why_whole is not None and x.name not in schemes]
    names = [f"{x.name!r} ({x.why_whole})" for x in left if x.why_whole.startswith("its weight")]
    words = f"; these stay whole: {', '.join(names)}" if names else ""
    if any(x.why_whole == LINEAR for x in left):
        words += "; linear=True prunes linear layers too"
    return words


def _surveyed(
    model: nn.Module | Survey,
    input_shape: Sequence[int] | ModelInputs | None,
    example_inputs: object,
    ignore: Iterable[str],
) -> Survey:
    if isinstance(model, Survey):
        return model
    return survey_model(
        model,
        input_shape=input_shape,
        example_inputs=example_inputs,
        ignore=ignore,
    )


def _known(what: str, survey: Survey, names: Iterable[str], known: list[str]) -> dict[str, str]:
    """The layers' own names of those that are given, and what each was given as."""
    found = {name: survey.layer(name) for name in names}
    unknown = [name for name, layer in found.items() if layer is None or layer.name not in known]
    if unknown:
        raise InputError(f"{what} {', '.join(sorted(unknown))}; layers: {', '.join(known)}")
    return {layer.name: name for name, layer in found.items()}
