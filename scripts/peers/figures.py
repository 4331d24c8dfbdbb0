"""Figures of one model of a peers.json: medians, ratios, kept multiply-adds, eta.

A kind says what was measured: ``dense``, ``dense direct``, a pruning such as ``kgs 16x4``, or one
of these in int8, ``int8 dense``.
"""

from __future__ import annotations

import statistics

# The kernel group of the paper, and what eta compares with: dense layers by the kernels of sparse
# ones. In int8 there is no other way to compute them.
PAPER_KIND, DIRECT, INT8_DENSE = "kgs 8x4", "dense direct", "int8 dense"
PRECISIONS = ("float32", "int8")
# How far, as a share, an engine's median in turns may be from its median alone.
WITHIN = 0.05


def is_int8(kind: str) -> bool:
    """Whether a kind is of a quantised model."""
    return kind.startswith("int8 ")


def median(model: dict, engine: str, kind: str = "dense") -> float | None:
    """Median milliseconds of the row of an engine, None where there is no such figure."""
    for row in model["engines"]:
        if (row["engine"], row["kind"]) == (engine, kind) and row["samples_ms"]:
            return statistics.median(row["samples_ms"])
    return None


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Their quotient, None where either was not measured."""
    return numerator / denominator if numerator and denominator else None


def kept_macs(model: dict, kind: str, names: set[str] | None = None) -> int:
    """Multiply-adds of the kept weights of every layer, or of those of some names."""
    layers = model["layers"][kind]
    return sum(layer["kept_macs"] for layer in layers if names is None or layer["name"] in names)


def convolutions(model: dict, direct: str = DIRECT) -> set[str]:
    """The convolutions with a kernel of this project; one output position is a classifier's."""
    layers = model["layers"][direct]
    return {layer["name"] for layer in layers if layer["kernel"] and max(layer["out"][-2:]) > 1}


def convolution_ms(model: dict, kind: str, names: set[str]) -> float | None:
    """Summed median milliseconds of the convolutions of these names."""
    for entry in model["calls"]:
        if entry["kind"] == kind and entry["samples_ms"]:
            medians = map(statistics.median, zip(*entry["samples_ms"], strict=True))
            calls = zip(entry["calls"], medians, strict=True)
            return sum(ms for call, ms in calls if names.intersection(call["layers"]))
    return None


def sparse_kinds(model: dict, precision: str = "float32") -> list[str]:
    """The prunings that were measured; first KGS at the group that the machine prefers."""
    return [
        kind
        for kind in model["layers"]
        if is_int8(kind) == (precision == "int8") and kind not in ("dense", DIRECT, INT8_DENSE)
    ]


def eta(model: dict, kind: str) -> tuple[float | None, float | None, float | None]:
    """Speed-up over the own direct dense run over the pruning rate; that rate.

    Of the whole model, and over its convolutions, whose rate is then their own. In int8 over the
    own dense int8 run. None where either was not compiled or not measured.
    """
    direct = INT8_DENSE if is_int8(kind) else DIRECT
    if not {direct, kind} <= model["layers"].keys():
        return None, None, None
    rate = kept_macs(model, direct) / kept_macs(model, kind)
    whole = ratio(median(model, "rt3d", direct), median(model, "rt3d", kind))
    names = convolutions(model, direct)
    of_convolutions = ratio(kept_macs(model, direct, names), kept_macs(model, kind, names))
    faster = ratio(convolution_ms(model, direct, names), convolution_ms(model, kind, names))
    return ratio(whole, rate), ratio(faster, of_convolutions), rate
