"""The loops around the transforms of Winograd's convolution on a CPU."""

from __future__ import annotations

from tvm import s_tir
from tvm.target import Target


def schedule_winograd_transform(sch: s_tir.Schedule, _block, _target: Target) -> None:
    """Rows of tiles in parallel: one is some microseconds of work, on data of its own."""
    for other in sch.get_child_blocks(sch.get_sblock("root")):
        sch.parallel(sch.fuse(*sch.get_loops(other)))
