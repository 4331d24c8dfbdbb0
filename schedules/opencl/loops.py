"""Any loop nest of a tensor expression on a GPU: what has no kernel of its own, such as adds."""

from __future__ import annotations

from tvm import s_tir, tirx
from tvm.s_tir.dlight.analysis import SBlockInfo, get_sblock_info
from tvm.sym import detect_linear_equation
from tvm.target import Target

# Work-items a group: two waves of an Adreno 6xx.
GROUP_ITEMS = 128
# Channels in a block of the packed layout, and in the vector that a work-item computes.
VECTOR = 4
# Of these TVM writes a vector of scattered elements as one int, which OpenCL C takes for a scalar.
_NO_SCATTERED = ("int8", "uint8")
_GROUPS = ("blockIdx.x", "blockIdx.y", "blockIdx.z")
_ITEMS = ("threadIdx.x", "threadIdx.y", "threadIdx.z")


def bind_groups(sch: s_tir.Schedule, *, groups: tuple, items: tuple) -> None:
    """Bind loops to the axes x, y, z of the grid and of the work-group."""
    for loops, axes in ((groups, _GROUPS), (items, _ITEMS)):
        for loop, axis in zip(loops, axes, strict=False):
            sch.bind(loop, axis)


def schedule_around(sch: s_tir.Schedule, _target: Target) -> None:
    """A kernel's zeros around planes, one work-item a plane, and its texture, one a texel."""
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        if sch.get(block).name_hint in ("halo", "texture"):
            spread(sch, sch.fuse(*sch.get_loops(block)))


def schedule_loops(sch: s_tir.Schedule, blocks: list[SBlockInfo]) -> None:
    """Inline elementwise producers; a work-item computes one vector of channels, or one element.

    A reduction is summed in registers and stored once, by a kernel of its own.
    """
    for block in [block for block in blocks if not _inlined(sch, block)]:
        _schedule_nest(sch, block)


def _schedule_nest(sch: s_tir.Schedule, block: SBlockInfo) -> None:
    loops = [axis.loop_rv for axis in block.iters if axis.kind == "S"]
    reduced = [axis.loop_rv for axis in block.iters if axis.kind != "S"]
    is_vector = len(loops) > 1 and int(sch.get(loops[-1]).extent) == VECTOR
    is_vector = is_vector and _has_vectors(sch.get(block.block_rv))
    lanes = [loops.pop()] if is_vector else []
    sch.reorder(*loops, *reduced, *lanes)
    item = spread(sch, sch.fuse(*loops))
    for lane in lanes:
        sch.vectorize(lane)
    if sch.get(block.block_rv).init is not None:
        stored = sch.cache_write(block.block_rv, 0, "local")
        sch.reverse_compute_at(stored, item)
        if lanes:
            sch.vectorize(sch.get_loops(stored)[-1])
        if reduced:
            sch.decompose_reduction(block.block_rv, reduced[0])


def _has_vectors(block: s_tir.SBlock) -> bool:
    """Whether OpenCL C has vectors along the last spatial axis for all that is read and stored.

    It has none of booleans, and TVM writes none of bytes that are no neighbours.
    """
    lane = [axis.var for axis in block.iter_vars if axis.iter_type == axis.DataPar][-1]
    regions = [*block.reads, *block.writes]
    return not any(
        str(each.source.dtype) == "bool"
        or (str(each.source.dtype) in _NO_SCATTERED and not _neighbours(each.region, lane))
        for each in regions
    )


def _neighbours(region: list, lane: tirx.Var) -> bool:
    """Whether places of a buffer go on by one element with ``lane``, or stay."""
    steps = [detect_linear_equation(axis.min, [lane]) for axis in region]
    if not all(steps):  # one of them is not linear
        return False
    *outer, last = [getattr(factor, "value", None) for factor, _ in steps]
    return all(step == 0 for step in outer) and last in (0, 1)


def spread(sch: s_tir.Schedule, loop):
    """Bind a loop to groups of work-items, and return the loop over those of one group."""
    size = min(int(sch.get(loop).extent), GROUP_ITEMS)
    group, item = sch.split(loop, [None, size])
    bind_groups(sch, groups=(group,), items=(item,))
    return item


def _inlined(sch: s_tir.Schedule, block: SBlockInfo) -> bool:
    """Inline an elementwise block into whatever reads it; a reduction is none."""
    if sch.get(block.block_rv).init is not None:
        return False
    consumers = [get_sblock_info(sch, other) for other in sch.get_consumers(block.block_rv)]
    if not consumers or not block.is_injective():
        return False
    sch.compute_inline(block.block_rv)
    return True
