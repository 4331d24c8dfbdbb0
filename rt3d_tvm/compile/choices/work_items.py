"""The work-items of opencl_kgs_conv3d, and its work-groups."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace

from tvm.target import Target

from rt3d_tvm.compile.choices.layer import Layer, Variant, worthwhile_heights
from schedules.decisions import Decisions
from schedules.opencl.kgs_conv3d import default_group, group_options
from topi_sparse.cpu.register_tile import GROUP_CHANNELS
from topi_sparse.layout import ceil_div
from topi_sparse.opencl.kgs_conv3d import OpenCLKGSConv3d
from topi_sparse.opencl.work_item import work_item

# Filters a work-item, and its sums in parts of what its registers are taken to hold.
ITEM_ROWS, ITEM_SUMS = (4, 8, 16, 32), (0.25, 1.5)


def work_items(layer: Layer, target: Target, heights: Sequence[int] | None) -> list[Variant]:
    """The work-items worth measuring, the default first."""
    conv, default = layer.conv, layer.default
    if not isinstance(conv, OpenCLKGSConv3d):
        raise TypeError(f"a {conv.name} has no work-items")
    item = work_item(target, conv.dtype, conv.accumulate)
    # Where few channels are no whole group, they cannot share the lanes.
    shared = {1, item.channels} if conv.group.g_n == GROUP_CHANNELS else {1}
    found = [default]
    for texture in (False, True) if conv.why_no_texture() is None else (False,):
        positions = math.prod(conv.out[3:])
        if not item.by_element and not replace(conv, texture=texture).along_input:
            positions = conv.out[4]  # neighbours are in one row
        for g_m in heights or worthwhile_heights(layer):
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


def item_decisions(conv: OpenCLKGSConv3d, _target: Target) -> tuple[Decisions, tuple]:
    """The default work-group and all there are, as the schedule finds them, without scheduling."""
    rows = conv.out[0] * conv.rows[0] * (conv.group.g_m // conv.rows_per_item)
    loops = json.loads(conv.to_json()), conv.items, conv.out[2], rows
    known = tuple(tuple((n,) for n in each) for each in group_options(*loops))
    return tuple((n,) for n in default_group(*loops)), known
