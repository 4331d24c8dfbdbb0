"""What there is to choose for a kgs_conv3d: its register tile, and the decisions of its schedule.

The tile (filters a row block, output columns, chunk of channel groups) is a parameter of the
kernel, and the weights are packed for it; the decisions are what the schedule samples around it.
For a opencl_kgs_conv3d the tile is that of a work-item, the decisions are the work-group.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tvm
from tvm.target import Target

from schedules.decisions import DECISIONS_ATTRIBUTE, Decisions, defaults, listed, scheduled
from schedules.opencl.kgs_conv3d import default_group, group_options
from schedules.table import kernel_rule
from topi_sparse.cpu.kgs_conv3d import SPEC_ATTRIBUTE, KGSConv3d, kgs_conv3d
from topi_sparse.cpu.register_tile import GROUP_CHANNELS, GROUP_HEIGHTS, lane_mappings, vector_unit
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import ceil_div
from topi_sparse.opencl.kgs_conv3d import OPENCL_ATTRIBUTE, OpenCLKGSConv3d, opencl_kgs_conv3d
from topi_sparse.opencl.work_item import MOST_LANES, work_item

# Fewer accumulators than this leave the multiply-add pipes idle, whatever is around them.
MIN_ACCUMULATORS = 8
# A taller row block is a variant where it multiplies few more zeros than the default one.
MAX_ISSUED = 1.25
# Chunks, in parts of the default one.
CHUNKS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3)
# Filters a work-item, and its sums in parts of what its registers are taken to hold.
ITEM_ROWS, ITEM_SUMS = (4, 8, 16, 32), (0.25, 1.5)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A register tile: filters a row block, output columns, channel groups a chunk.

    channels: that share a vector with the filters, see Tile. rows: filters a work-item, whose
    ``width`` is in positions; 0 for a kernel that has none. texture: whether a work-item reads the
    input through one.
    """

    g_m: int
    width: int
    chunk: int
    channels: int = 1
    rows: int = 0
    texture: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One point of the space: a variant, and the decisions of the schedule around it."""

    variant: Variant
    decisions: Decisions

    def to_json(self) -> dict:
        """As a record holds it."""
        variant = self.variant
        return {
            "g_m": variant.g_m,
            "width": variant.width,
            "chunk": variant.chunk,
            "channels": variant.channels,
            **({"rows": variant.rows} if variant.rows else {}),
            **({"texture": True} if variant.texture else {}),
            "decisions": [list(decision) for decision in self.decisions],
        }

    @classmethod
    def from_json(cls, fields: dict) -> Choice:
        """What ``to_json`` gave; KeyError, TypeError or ValueError for anything else."""
        tile = {name: int(fields[name]) for name in ("g_m", "width", "chunk")}
        # Records are older than the channels that share a vector, work-items and textures.
        newer = {"channels": int(fields.get("channels", 1)), "rows": int(fields.get("rows", 0))}
        texture = fields.get("texture", False)
        if not isinstance(texture, bool) or (texture and not newer["rows"]):
            raise ValueError(f"texture {texture!r}: true or false is accepted, of a work-item")
        variant = Variant(**tile, **newer, texture=texture)
        decisions = tuple(tuple(int(n) for n in decision) for decision in fields["decisions"])
        return cls(variant=variant, decisions=decisions)


@dataclass(frozen=True, eq=False)
class Layer:
    """A kgs_conv3d with its constants (blocks, offsets, pointers, bias), as `lower` leaves it."""

    conv: KGSConv3d
    constants: tuple[np.ndarray, ...]
    _kept: dict = field(default_factory=dict)

    @property
    def default(self) -> Variant:
        """The tile that it has untuned."""
        conv = self.conv
        item = {"rows": conv.rows_per_item, "texture": conv.texture} if is_simt(conv) else {}
        return Variant(
            g_m=conv.group.g_m,
            width=self.width(conv.tile.width),
            chunk=conv.tile.chunk,
            channels=conv.tile.channels,
            **item,
        )

    def width(self, columns: int) -> int:
        """Columns of a tile, where the output is narrower; a work-item's go on in the next row."""
        return columns if is_simt(self.conv) else min(columns, self.conv.out[4])

    def definition(self, variant: Variant) -> KGSConv3d:
        """The kernel with another tile."""
        if variant == self.default:
            return self.conv
        conv, kept, weights = self.conv, self.conv.kept, self.conv.weights
        if variant.g_m != conv.group.g_m:
            kept, weights = self._counts(variant.g_m)
        lanes, item = min(variant.g_m * variant.channels, conv.y.c_block), {}
        if variant.rows:
            lanes = min(variant.rows * variant.channels, MOST_LANES)
            item = {"rows_per_item": variant.rows, "texture": variant.texture}
        tile = replace(
            conv.tile,
            lanes=lanes,
            width=variant.width,
            chunk=variant.chunk,
            channels=variant.channels,
        )
        group = replace(conv.group, g_m=variant.g_m)
        return replace(conv, group=group, kept=kept, weights=weights, tile=tile, **item)

    def packed(self, variant: Variant) -> tuple[np.ndarray, ...]:
        """The constants for that tile."""
        default = self.default
        if replace(variant, width=default.width, rows=default.rows) == default:
            return self.constants
        weights = self._packed(variant)
        blocks = np.concatenate([weight.blocks for weight in weights])
        offsets = self.definition(variant).offsets(weights[0].columns)
        bias = np.zeros(self._in_blocks_of(variant.g_m).stored_filters, self.constants[3].dtype)
        bias[: self.conv.filters] = self.constants[3][: self.conv.filters]
        return (blocks, offsets, weights[0].pointers, bias)

    def weights(self) -> list[np.ndarray]:
        """The dense weights (M, N, KD, KH, KW), one for each set."""
        if ("dense",) not in self._kept:
            conv = self.conv
            blocks, offsets, pointers, _ = self.constants
            self._kept[("dense",)] = [
                KGSWeight(
                    shape=(conv.filters, conv.data[1], *conv.kernel),
                    group=conv.group,
                    chunk=conv.tile.chunk,
                    row_multiple=conv.row_multiple,
                    columns=conv.columns(offsets, pointers),
                    blocks=part,
                    pointers=pointers,
                    channels=conv.tile.channels,
                ).decompress()
                for part in np.split(blocks, conv.weight_sets)
            ]
        return self._kept[("dense",)]

    def forget(self) -> None:
        """Drop the arrays that can be computed again."""
        for key in [key for key in self._kept if key[0] != "counts"]:
            del self._kept[key]

    def _in_blocks_of(self, g_m: int) -> KGSConv3d:
        """The kernel with row blocks of another height, and all else as it is."""
        return replace(self.conv, group=replace(self.conv.group, g_m=g_m))

    def _counts(self, g_m: int) -> tuple[int, int]:
        """Kept columns and stored weights of a set in row blocks of that height."""
        key = ("counts", g_m)
        if key not in self._kept:
            weight = self._packed(replace(self.default, g_m=g_m, channels=1))[0]
            self._kept[key] = (weight.kept, weight.blocks.size)
        return self._kept[key]

    def _packed(self, variant: Variant) -> list[KGSWeight]:
        key = (variant.g_m, variant.chunk, variant.channels)
        if key not in self._kept:
            weights = self.weights()
            # The sets share their columns: what one of them needs is kept in all.
            mask = np.logical_or.reduce([weight != 0 for weight in weights])
            self._kept[key] = [
                KGSWeight.from_dense(
                    weight,
                    group=replace(self.conv.group, g_m=variant.g_m),
                    chunk=variant.chunk,
                    row_multiple=self._in_blocks_of(variant.g_m).row_multiple,
                    channels=variant.channels,
                    kept=mask,
                )
                for weight in weights
            ]
        return self._kept[key]


def variants(
    layer: Layer, target: Target, *, heights: Sequence[int] | None = None
) -> list[Variant]:
    """The tiles worth measuring, the default first.

    ``heights``: of a row block, by default those that issue little more than the default one.
    A classifier, which has one position, reads its weights once whatever the tile is: it keeps its
    own.
    """
    conv, default = layer.conv, layer.default
    if math.prod(conv.out[2:]) == 1:
        return [default]
    if is_simt(conv):
        return _items(layer, target, heights or _heights(layer))
    unit = replace(vector_unit(target, conv.dtype), lanes=conv.y.c_block)
    block = max(conv.x.c_block // conv.group.g_n, 1)
    whole = ceil_div(ceil_div(conv.data[1], conv.group.g_n), block) * block
    # Sums in float16 are kept short for their digits, not for speed.
    factors = [factor for factor in CHUNKS if factor <= 1 or conv.dtype == "float32"]
    chunks = sorted(
        {min(max(round(default.chunk * f / block), 1) * block, whole) for f in factors}
        | {default.chunk}
    )
    found = [default]
    for g_m in heights or _heights(layer):
        for lanes, channels in lane_mappings(replace(conv.group, g_m=g_m), unit):
            vectors = g_m * channels // lanes
            for width in range(1, min(conv.out[4], unit.registers) + 1):
                if _worth(vectors * width, width, conv.out[4], unit.registers):
                    tile = Variant(g_m=g_m, width=width, chunk=default.chunk, channels=channels)
                    found += [replace(tile, chunk=chunk) for chunk in chunks]
    return list(dict.fromkeys(found))


def _items(layer: Layer, target: Target, heights: Sequence[int]) -> list[Variant]:
    """The work-items worth measuring, the default first."""
    conv, default = layer.conv, layer.default
    item = work_item(target, conv.dtype, conv.accumulate)
    # Where few channels are no whole group, they cannot share the lanes.
    shared = {1, item.channels} if conv.group.g_n == GROUP_CHANNELS else {1}
    found = [default]
    for texture in (False, True) if conv.why_no_texture() is None else (False,):
        positions = math.prod(conv.out[3:])
        if not item.by_element and not replace(conv, texture=texture).along_input:
            positions = conv.out[4]  # neighbours are in one row
        for g_m in heights:
            fitting = [rows for rows in ITEM_ROWS if rows <= g_m]
            for rows, channels in itertools.product(fitting, sorted(shared)):
                sums = rows * channels
                least, most = (int(item.accumulators * part) // sums for part in ITEM_SUMS)
                for width in range(max(min(least, positions), 1), min(most, positions) + 1):
                    # Of widths that cut a plane, or its row, into as many work-items, the least.
                    if width == ceil_div(positions, ceil_div(positions, width)):
                        tile = {"width": width, "chunk": default.chunk, "channels": channels}
                        found.append(Variant(g_m=g_m, rows=rows, texture=texture, **tile))
    return list(dict.fromkeys(found))


def _heights(layer: Layer) -> list[int]:
    """Heights of a row block that multiply few more zeros than the default one."""
    conv, mask = layer.conv, None
    heights = []
    for g_m in GROUP_HEIGHTS:
        if g_m < conv.group.g_m:  # never more zeros; far smaller ones share too few inputs
            if 2 * g_m == conv.group.g_m:
                heights.append(g_m)
            continue
        if g_m > conv.group.g_m and conv.group.g_n == GROUP_CHANNELS:
            mask = layer.weights()[0] if mask is None else mask
            variant = replace(layer.default, g_m=g_m)
            if layer.definition(variant).weights > MAX_ISSUED * conv.weights:
                continue
        elif g_m > conv.group.g_m:
            continue
        heights.append(g_m)
    return heights


def _worth(accumulators: int, width: int, out_width: int, registers: int) -> bool:
    """Whether a tile of so many accumulators keeps the pipes busy and stays in registers."""
    if accumulators >= registers or (accumulators < MIN_ACCUMULATORS and width < out_width):
        return False
    # Of widths that cut a row into as many strips, those that cut it evenly.
    strips = ceil_div(out_width, width)
    return width == ceil_div(out_width, strips) or out_width % width == 0


def is_simt(conv: KGSConv3d) -> bool:
    """Whether a kernel is one of work-items."""
    return isinstance(conv, OpenCLKGSConv3d)


def decisions(conv: KGSConv3d, target: Target) -> tuple[Decisions, tuple]:
    """The default decisions of a kernel's schedule, and for each all there are."""
    if is_simt(conv):  # as its schedule finds them, which takes a while to be written down
        rows = conv.out[0] * conv.rows[0] * (conv.group.g_m // conv.rows_per_item)
        loops = json.loads(conv.to_json()), conv.items, conv.out[2], rows
        known = tuple(tuple((n,) for n in each) for each in group_options(*loops))
        return tuple((n,) for n in default_group(*loops)), known
    sch = scheduled(kgs_conv3d(conv), kernel_rule("cpu", SPEC_ATTRIBUTE).schedule, target)
    return defaults(sch), listed(sch)


def decided(conv: KGSConv3d, taken: Decisions) -> tvm.tirx.PrimFunc:
    """The kernel, not scheduled yet, with the decisions that its schedule is to take."""
    text = json.dumps([list(decision) for decision in taken])
    return _function(conv).with_attr(DECISIONS_ATTRIBUTE, text)


def built(conv: KGSConv3d, taken: Decisions, target: Target) -> tvm.IRModule:
    """The scheduled kernel as a module with one function, ``main``."""
    served = ("adreno", OPENCL_ATTRIBUTE) if is_simt(conv) else ("cpu", SPEC_ATTRIBUTE)
    function = _function(conv).with_attr("global_symbol", "main")
    return scheduled(function, kernel_rule(*served).schedule, target, taken).mod


def _function(conv: KGSConv3d) -> tvm.tirx.PrimFunc:
    return opencl_kgs_conv3d(conv) if is_simt(conv) else kgs_conv3d(conv)
