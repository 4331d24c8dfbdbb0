"""Any loop nest of a tensor expression on a CPU: pools, adds, concats, means, layout changes.

Also what a declined convolution is left with: correct and spread over threads and lanes, not fast.
"""

from __future__ import annotations

from tvm import s_tir
from tvm.s_tir.dlight.analysis import SBlockInfo, get_sblock_info

# Lanes of the widest vector in use (AVX-512, float32); a narrower machine splits it by itself.
LANES = 16


def schedule_loops(sch: s_tir.Schedule, blocks: list[SBlockInfo]) -> None:
    """Inline elementwise producers; outer axes in parallel, the innermost in lanes."""
    for block in [block for block in blocks if not _inlined(sch, block)]:
        _spread(sch, block)


def _inlined(sch: s_tir.Schedule, block: SBlockInfo) -> bool:
    """Inline an elementwise block into elementwise consumers.

    Not into a reduction, which would evaluate it once a tap, guards and all.
    """
    if sch.get(block.block_rv).init is not None:  # a reduction, if only over one element
        return False
    consumers = [get_sblock_info(sch, other) for other in sch.get_consumers(block.block_rv)]
    if not consumers or not all(other.is_injective() for other in (block, *consumers)):
        return False
    sch.compute_inline(block.block_rv)
    return True


def _spread(sch: s_tir.Schedule, block: SBlockInfo) -> None:
    spatial = [axis.loop_rv for axis in block.iters if axis.kind == "S"]
    reduced = [axis.loop_rv for axis in block.iters if axis.kind != "S"]
    if not spatial:
        return
    *outer, inner = spatial
    extent = int(sch.get(inner).extent)
    lanes = max(n for n in range(1, LANES + 1) if extent % n == 0)
    inner, lane = sch.split(inner, [None, lanes])
    outer.append(inner)
    sch.reorder(*outer, *reduced, lane)
    sch.vectorize(lane)
    # The last two axes stay serial where there are enough others: a row is the least worth a task.
    sch.parallel(sch.fuse(*(outer[:-2] if len(outer) > 3 else outer)))
    if reduced:
        sch.decompose_reduction(block.block_rv, reduced[0])
