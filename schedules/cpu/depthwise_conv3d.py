"""The loops around the register tile of depthwise_conv3d on a CPU."""

from __future__ import annotations

from tvm import s_tir
from tvm.target import Target

from schedules.cpu.halo import parallel_halo


def schedule_depthwise_conv3d(sch: s_tir.Schedule, block, _target: Target) -> None:
    """Rows in parallel, each thread a run of them: a row of the input stays in L1 for its window.

    There is nothing to block for beyond that, since no input serves two channel blocks.
    """
    *rows, _strip = sch.get_loops(block)
    sch.parallel(sch.fuse(*rows))
    parallel_halo(sch)
