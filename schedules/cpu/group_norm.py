"""The loops around the steps of group_norm on a CPU."""

from __future__ import annotations

from tvm import s_tir
from tvm.target import Target

from schedules.cpu.halo import parallel_halo


def schedule_group_norm(sch: s_tir.Schedule, block, _target: Target) -> None:
    """Planes in parallel, then rows; groups too, whose work is some microseconds."""
    for step in (sch.get_sblock("planes"), sch.get_sblock("groups"), block):
        sch.parallel(sch.fuse(*sch.get_loops(step)))
    parallel_halo(sch)
