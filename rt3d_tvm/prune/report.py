"""What pruning did to a model, layer by layer and as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, prod
from typing import TextIO

from torch import Tensor

from rt3d_tvm.console import print_table
from rt3d_tvm.prune.probe import memory
from rt3d_tvm.prune.schemes import Scheme
from rt3d_tvm.prune.survey import LINEAR, LayerWork, Survey


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """What became of one layer. ``pruned`` is False for those that only count in the total.

    ``group`` is the kernel group a layer was pruned by, if its scheme has one. MACs kept are those
    of weights that are not zero. Parameters are weights and biases. ``empty_filters`` have no
    weight left: they put out their bias, whatever the input. ``tied_to`` are further layers with
    the same weight, whose MACs are in these; ``why_whole`` says why a layer is not pruned.
    """

    name: str
    shape: tuple[int, ...]
    pruned: bool
    group: str | None
    density: float
    dense_macs: int
    kept_macs: int
    dense_params: int
    kept_params: int
    empty_filters: int
    tied_to: tuple[str, ...] = ()
    why_whole: str | None = None


@dataclass(frozen=True, kw_only=True)
class ProjectionReport:
    """What pruning did to a model; ``rate`` is dense MACs / kept MACs of the whole of it.

    Parameters are those of the whole model too: more than its layers have, if it normalises.
    """

    algorithm: str
    scheme: str
    target_rate: float
    rate: float
    dense_macs: int
    kept_macs: int
    dense_params: int
    kept_params: int
    layers: tuple[LayerReport, ...]


def report_masks(
    survey: Survey,
    masks: Mapping[str, Tensor],
    schemes: Mapping[str, Scheme],
    *,
    algorithm: str,
    target_rate: float,
) -> ProjectionReport:
    """What a model has left of its weights in effect, under masks that were chosen by ``schemes``.

    Layers in ``schemes`` but not in ``masks`` are to be pruned, but are not yet.
    """
    layers = tuple(
        _layer_report(layer, schemes.get(layer.name), pruned=layer.name in masks)
        for layer in survey.layers
    )
    dense = sum(layer.dense_macs for layer in layers)
    kept = sum(layer.kept_macs for layer in layers)
    # Tied weights are one.
    params = sum({memory(p): p.numel() for p in survey.model.parameters()}.values())
    return ProjectionReport(
        algorithm=algorithm,
        scheme=", ".join(dict.fromkeys(map(str, schemes.values()))),
        target_rate=target_rate,
        rate=dense / kept if kept else inf,
        dense_macs=dense,
        kept_macs=kept,
        dense_params=params,
        kept_params=params - sum(layer.dense_params - layer.kept_params for layer in layers),
        layers=layers,
    )


def _layer_report(layer: LayerWork, scheme: Scheme | None, *, pruned: bool) -> LayerReport:
    kept, empty, params = layer.kept_macs, 0, 0
    if layer.weight is not None:
        bias = layer.weight.module._parameters.get("bias")
        params = prod(layer.shape) + (0 if bias is None else bias.numel())
        if pruned:
            empty = int((layer.filters().flatten(1) == 0).all(1).sum())
    why_whole = None
    if scheme is None:
        why_whole = layer.why_whole or "ignored"
    return LayerReport(
        name=layer.name,
        shape=layer.shape,
        pruned=pruned,
        group=None if scheme is None or scheme.name == "filter" else str(scheme.group),
        density=kept / layer.dense if layer.dense else 1.0,
        dense_macs=layer.dense,
        kept_macs=kept,
        dense_params=params,
        kept_params=params - (layer.dense - kept) // layer.positions
        if params and layer.positions
        else params,
        empty_filters=empty,
        tied_to=layer.tied,
        why_whole=why_whole,
    )


def print_report(report: ProjectionReport, *, file: TextIO | None = None) -> None:
    """Print MACs, parameters and density of each layer and of the whole, before and after."""
    rows = [
        (
            layer.name,
            layer.shape,
            layer.group if layer.pruned else _whole(layer),
            layer.dense_macs,
            layer.kept_macs,
            layer.dense_params,
            layer.kept_params,
            layer.density,
        )
        for layer in report.layers
    ]
    total = (report.dense_macs, report.kept_macs, report.dense_params, report.kept_params)
    rows.append(("model", None, None, *total, report.kept_macs / report.dense_macs))
    print_table(
        rows,
        columns=("layer", "shape", "group", "MACs", "kept", "parameters", "kept", "density"),
        title=f"{report.algorithm}, {report.scheme}: {report.rate:.4g}x",
        file=file,
    )


def _whole(layer: LayerReport) -> str:
    """That a layer is whole, and why where one would not expect it."""
    expected = layer.why_whole in (None, "ignored", LINEAR)
    return "whole" if expected else f"whole: {layer.why_whole}"
