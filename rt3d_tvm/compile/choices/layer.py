"""A kernel with its weights, a tile for it, and the decisions of its schedule.

The tile (filters per row block, output columns, chunk of channel groups) is a parameter of the
kernel, and the weights are packed for it. The schedule samples its decisions around the tile.
For an opencl_kgs_conv3d the tile is that of a work-item, and the decisions are the work-group.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from schedules.decisions import Decisions
from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.cpu.register_tile import GROUP_CHANNELS, GROUP_HEIGHTS
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.opencl.work_item import MOST_LANES

# A taller row block is a variant where it multiplies few more zeros than the default one.
MAX_ISSUED = 1.25


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A register tile: filters per row block, output columns, channel groups per chunk.

    channels: that share a vector with the filters, see Tile. rows: filters per work-item, whose
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
    """A kgs_conv3d with its constants (``conv.constants`` names them), as `lower` leaves it."""

    conv: KGSConv3d
    constants: tuple[np.ndarray, ...]
    _kept: dict = field(default_factory=dict)

    @property
    def default(self) -> Variant:
        """The tile that it has untuned."""
        conv = self.conv
        return Variant(
            g_m=conv.group.g_m,
            width=conv.tile_width(conv.tile.width),
            chunk=conv.tile.chunk,
            channels=conv.tile.channels,
            rows=conv.item_rows,
            texture=conv.reads_texture,
        )

    def definition(self, variant: Variant) -> KGSConv3d:
        """The kernel with another tile."""
        if variant == self.default:
            return self.conv
        conv, kept, weights = self.conv, self.conv.kept, self.conv.weights
        if variant.g_m != conv.group.g_m:
            kept, weights = self._counts(variant.g_m)
        lanes, item = conv.lanes_of(variant.g_m, variant.channels), {}
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
        of_filters = (self._padded(values, variant.g_m) for values in self.constants[3:])
        return (blocks, offsets, weights[0].pointers, *of_filters)

    def weights(self) -> list[np.ndarray]:
        """The dense weights (M, N, KD, KH, KW), one for each set."""
        if ("dense",) not in self._kept:
            conv = self.conv
            blocks, offsets, pointers = self.constants[:3]
            self._kept[("dense",)] = [
                KGSWeight(
                    shape=(conv.filters, conv.data[1], *conv.kernel),
                    group=conv.group,
                    chunk=conv.tile.chunk,
                    row_multiple=conv.row_multiple,
                    columns=conv.columns(offsets, pointers),
                    blocks=part,
                    pointers=pointers,
                    channels=conv.packing["channels"],
                    together=conv.packing.get("together", 1),
                ).decompress()
                for part in np.split(blocks, conv.weight_sets)
            ]
        return self._kept[("dense",)]

    def forget(self) -> None:
        """Drop the arrays that can be computed again."""
        for key in [key for key in self._kept if key[0] != "counts"]:
            del self._kept[key]

    def _in_blocks_of(self, g_m: int, channels: int | None = None) -> KGSConv3d:
        """The kernel with row blocks of another height, whose vectors so many channels share."""
        conv = self.conv
        tile = conv.tile if channels is None else replace(conv.tile, channels=channels)
        return replace(conv, group=replace(conv.group, g_m=g_m), tile=tile)

    def _padded(self, values: np.ndarray, g_m: int) -> np.ndarray:
        """Rows with a number for each filter, padded for row blocks of another height."""
        rows = values.reshape(-1, self.conv.stored_filters)
        padded = np.zeros((len(rows), self._in_blocks_of(g_m).stored_filters), values.dtype)
        padded[:, : self.conv.filters] = rows[:, : self.conv.filters]
        return padded.ravel()

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
                    **self._in_blocks_of(variant.g_m, variant.channels).packing,
                    kept=mask,
                )
                for weight in weights
            ]
        return self._kept[key]


def worthwhile_heights(layer: Layer) -> list[int]:
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
