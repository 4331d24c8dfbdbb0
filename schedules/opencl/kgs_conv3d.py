"""Work-groups of opencl_kgs_conv3d: positions of a plane, then planes, then row blocks.

What a group holds, and what comes after it, is sampled with its defaults as the decision, so this
one function is the untuned schedule and the search space.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from tvm import s_tir
from tvm.target import Target

from schedules.opencl.loops import bind_groups, schedule_around

# Work-items a group: two waves of an Adreno 6xx, which runs 64 fibers of 32 bits side by side.
GROUP_ITEMS = 128
# The most that every Adreno's driver grants a kernel.
MOST_ITEMS = 256
# Work-items along the positions of a plane that a group may have, where a plane has more.
_ACROSS = (8, 16, 32, 64, 128, 256)
# Half of a Zen 5's L2: on a CPU the input of a group stays there for all row blocks.
INPUT_BYTES = 512 * 1024


def schedule_opencl_kgs_conv3d(sch: s_tir.Schedule, block, target: Target) -> None:
    """A group holds neighbouring positions, and neighbouring planes where those are few.

    All of a group have the same columns to walk, but at the first and last planes; where a layer
    has next to no positions, as a fully connected one, a group holds neighbouring rows instead.
    The next groups have the same positions and other rows, so many of these in turn, then the
    next positions.
    """
    conv = json.loads(sch.mod["main"].attrs["opencl_kgs_conv3d"])
    batch, p, part, d, item = sch.get_loops(block)
    items, planes = (int(sch.get(loop).extent) for loop in (item, d))
    rows = sch.fuse(batch, p, part)
    loops = items, planes, int(sch.get(rows).extent)
    default, options = default_group(conv, *loops), group_options(conv, *loops)
    across, together, in_turn = (
        sch.sample_categorical(list(known), [1 / len(known)] * len(known), known.index(taken))
        for known, taken in zip(options, default, strict=True)
    )
    row_items = max(GROUP_ITEMS // default[1], 1) if items == 1 else 1
    d_out, d_in = sch.split(d, [None, together])
    item_out, item_in = sch.split(item, [None, across])
    rows_out, rows_next, rows_in = sch.split(rows, [None, in_turn, min(row_items, loops[2])])
    sch.reorder(rows_out, d_out, item_out, rows_next, rows_in, d_in, item_in)
    bind_groups(
        sch,
        groups=(sch.fuse(item_out, rows_next), d_out, rows_out),
        items=(item_in, d_in, rows_in),
    )
    schedule_around(sch, target)


def default_group(conv: Mapping, items: int, planes: int, rows: int) -> tuple[int, int, int]:
    """What serves untuned: work-items along a plane and planes a group, rows in turn.

    conv: the kernel's definition; the others are the extents of its loops, rows those of all row
    blocks in parts of a work-item's.
    """
    if conv["tile"]["by_element"] or items == 1:
        across = min(items, GROUP_ITEMS)
        return across, max(n for n in _divisors(planes) if n * across <= GROUP_ITEMS), 1
    # On a CPU groups run one after the other: either every weight is read once, or every input.
    itemsize = {"float32": 4, "float16": 2}[conv["dtype"]]
    _, channels, _, _, width = conv["data"]
    kd, kh, _ = conv["kernel"]
    positions = INPUT_BYTES // (channels * itemsize * kd) - (kh - 1) * width
    fitting = [n for n in _ACROSS if n * conv["tile"]["width"] <= positions]
    in_turn = 1 if conv["weights"] > math.prod(conv["data"]) else rows
    return min(items, max(fitting, default=_ACROSS[0])), 1, in_turn


def group_options(
    conv: Mapping, items: int, planes: int, rows: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """All that may be taken in their place, whichever is taken of each.

    Where there is one work-item a plane a group has as many rows as fit, and there is no choice.
    """
    default = default_group(conv, items, planes, rows)
    if items == 1:
        return tuple((n,) for n in default)
    across = {min(items, n) for n in _ACROSS} | {default[0]}
    together = [n for n in _divisors(planes) if n * max(across) <= MOST_ITEMS]
    return tuple(sorted(across)), tuple(together), tuple(_divisors(rows))


def _divisors(extent: int) -> list[int]:
    return [n for n in range(1, extent + 1) if extent % n == 0]
