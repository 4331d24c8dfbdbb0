"""Work-groups of kernels whose work-items share nothing: pools, layout changes."""

from __future__ import annotations

from tvm import s_tir
from tvm.target import Target

from schedules.opencl.loops import schedule_around, spread


def schedule_tiles(sch: s_tir.Schedule, block, target: Target) -> None:
    """Neighbours have neighbouring columns, then rows, planes and channel blocks."""
    spread(sch, sch.fuse(*sch.get_loops(block)))
    schedule_around(sch, target)
