"""The loops around the rows of max_pool3d on a CPU."""

from __future__ import annotations

from tvm import s_tir
from tvm.target import Target

from schedules.cpu.halo import parallel_halo


def schedule_max_pool3d(sch: s_tir.Schedule, block, _target: Target) -> None:
    """Rows in parallel, each thread a run of them: the rows of a window stay in L1 for the next."""
    sch.parallel(sch.fuse(*sch.get_loops(block)))
    parallel_halo(sch)
