"""What there is to choose for a kernel, by its name: its tiles, and the decisions around them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tvm
from tvm.target import Target

from rt3d_tvm.compile.choices.layer import Layer, Variant
from rt3d_tvm.compile.choices.quantized_tiles import quantized_tiles
from rt3d_tvm.compile.choices.tiles import tile_decisions, tiles
from rt3d_tvm.compile.choices.work_items import item_decisions, work_items
from schedules.decisions import DECISIONS_ATTRIBUTE, Decisions, scheduled
from schedules.table import kernel_rule
from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.cpu.quantized_kgs_conv3d import QuantizedKGSConv3d
from topi_sparse.opencl.kgs_conv3d import OpenCLKGSConv3d


@dataclass(frozen=True, kw_only=True)
class Space:
    """The choices for one kernel.

    variants   of a layer, target and heights of a row block (None: those that are worth it)
    decisions  of a definition and a target: the default ones, and for each all there are
    """

    variants: Callable[[Layer, Target, Sequence[int] | None], list[Variant]]
    decisions: Callable[[KGSConv3d, Target], tuple[Decisions, tuple]]


SPACES = {
    KGSConv3d.name: Space(variants=tiles, decisions=tile_decisions),
    QuantizedKGSConv3d.name: Space(variants=quantized_tiles, decisions=tile_decisions),
    OpenCLKGSConv3d.name: Space(variants=work_items, decisions=item_decisions),
}


def variants(
    layer: Layer, target: Target, *, heights: Sequence[int] | None = None
) -> list[Variant]:
    """The tiles worth measuring, the default first.

    ``heights``: of a row block, by default those that issue little more than the default one.
    A classifier, which has one position, reads its weights once whatever the tile is: it keeps its
    own.
    """
    if math.prod(layer.conv.out[2:]) == 1:
        return [layer.default]
    return SPACES[layer.conv.name].variants(layer, target, heights)


def decisions(conv: KGSConv3d, target: Target) -> tuple[Decisions, tuple]:
    """The default decisions of a kernel's schedule, and for each all there are."""
    return SPACES[conv.name].decisions(conv, target)


def decided(conv: KGSConv3d, taken: Decisions) -> tvm.tirx.PrimFunc:
    """The kernel, not scheduled yet, with the decisions that its schedule is to take."""
    text = json.dumps([list(decision) for decision in taken])
    return conv.prim_func().with_attr(DECISIONS_ATTRIBUTE, text)


def built(conv: KGSConv3d, taken: Decisions, target: Target) -> tvm.IRModule:
    """The scheduled kernel as a module with one function, ``main``."""
    function = conv.prim_func().with_attr("global_symbol", "main")
    return scheduled(function, kernel_rule(conv.name).schedule, target, taken).mod
