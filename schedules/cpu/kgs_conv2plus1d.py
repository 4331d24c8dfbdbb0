"""The loops around the rows of kgs_conv2plus1d on a CPU.

What happens within a row, whose buffer is one thread's own, is the kernel's; the schedule deals the
rows out to the threads.
"""

from __future__ import annotations

from tvm import s_tir
from tvm.target import Target

from schedules.cpu.halo import parallel_halo


def schedule_kgs_conv2plus1d(sch: s_tir.Schedule, block, _target: Target) -> None:
    """Parallel rows; and parallel planes of the halo."""
    sch.parallel(sch.fuse(*sch.get_loops(block)))
    parallel_halo(sch)
