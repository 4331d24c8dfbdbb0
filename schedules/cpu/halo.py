"""The zeros around a kernel's planes, on a CPU."""

from __future__ import annotations

from tvm import s_tir


def parallel_halo(sch: s_tir.Schedule) -> None:
    """Parallel planes of the block "halo", where a kernel has one."""
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if sch.get(block).name_hint == "halo":
            sch.parallel(sch.fuse(*sch.get_loops(block)))
