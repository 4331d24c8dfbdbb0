"""The choice between the kernels that can compute a convolution, by what they cost.

A candidate makes a Kernel of a Convolution or says why it cannot; the cheapest one is taken.
Another algorithm is another Candidate in a row of `compile.backends`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rt3d_tvm.compile.kernels.depthwise import DEPTHWISE
from rt3d_tvm.compile.kernels.direct import DIRECT, PADDED
from rt3d_tvm.compile.kernels.kernel import Candidate, Convolution, Kernel
from rt3d_tvm.compile.kernels.winograd import WINOGRAD
from topi_sparse.cpu.register_tile import VectorUnit
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.opencl.work_item import WorkItem

# The kernels of a CPU.
CPU_CANDIDATES = (DIRECT, PADDED, WINOGRAD, DEPTHWISE)


def why_none(conv: Convolution, candidates: Sequence[Candidate]) -> str | None:
    """Why none of the candidates can compute it, or None where one can."""
    reasons = [candidate.why_not(conv) for candidate in candidates]
    return None if None in reasons else "; ".join(reasons)


def cheapest(
    conv: Convolution,
    unit: VectorUnit | WorkItem,
    group: KernelGroup | None,
    *,
    winograd: bool,
    candidates: Sequence[Candidate] = CPU_CANDIDATES,
) -> Kernel:
    """The candidate of the lowest cost; without ``winograd`` of those that are direct."""
    if isinstance(unit, VectorUnit):  # a work-item's kernel decides for each convolution
        conv = replace(conv, weight=conv.weight.astype(unit.dtype))
    kernels = [
        candidate.make(conv, unit, group)
        for candidate in candidates
        if candidate.why_not(conv) is None and (winograd or candidate.direct)
    ]
    return min(kernels, key=lambda kernel: kernel.cost)
