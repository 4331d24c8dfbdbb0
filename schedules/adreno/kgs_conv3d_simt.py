"""Work-groups of kgs_conv3d_simt: positions of a plane, then planes, then row blocks."""

from __future__ import annotations

from tvm import s_tir
from tvm.target import Target

from schedules.adreno.loops import bind_groups, schedule_halo

# Work-items a group: two waves of an Adreno 6xx, which runs 64 fibers of 32 bits side by side.
GROUP_ITEMS = 128


def schedule_kgs_conv3d_simt(sch: s_tir.Schedule, block, target: Target) -> None:
    """A group holds neighbouring positions, and neighbouring planes where those are few.

    All of a group have the same columns to walk, but at the first and last planes; where a layer
    has next to no positions, as a fully connected one, a group holds neighbouring rows instead.
    """
    batch, p, part, d, item = sch.get_loops(block)
    items, planes = (int(sch.get(loop).extent) for loop in (item, d))
    across = min(items, GROUP_ITEMS)
    together = max(n for n in range(1, planes + 1) if planes % n == 0 and n * across <= GROUP_ITEMS)
    rows = sch.fuse(batch, p, part)
    row_items = max(GROUP_ITEMS // (across * together), 1) if items == 1 else 1
    d_out, d_in = sch.split(d, [None, together])
    item_out, item_in = sch.split(item, [None, across])
    rows_out, rows_in = sch.split(rows, [None, min(row_items, int(sch.get(rows).extent))])
    sch.reorder(rows_out, d_out, item_out, rows_in, d_in, item_in)
    bind_groups(sch, groups=(item_out, d_out, rows_out), items=(item_in, d_in, rows_in))
    schedule_halo(sch, target)
