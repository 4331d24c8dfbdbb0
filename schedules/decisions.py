"""The decisions that a schedule samples: read, listed and replaced.

A schedule function samples each of its decisions with a default, so its trace knows where they are.
They are written down as one tuple of numbers for each sampling, in the order of the function: the
factors of a perfect tile, or the one candidate that was taken of several.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import s_tir, tirx
from tvm.target import Target

from schedules.extrema import keeping_nan
from schedules.transcendentals import by_polynomials

# The attribute of a PrimFunc that says which decisions to take instead of the defaults.
DECISIONS_ATTRIBUTE = "schedule_decisions"

Decisions = tuple[tuple[int, ...], ...]
ScheduleFunction = Callable[[s_tir.Schedule, s_tir.schedule.SBlockRV, Target], None]


def scheduled(
    func: tirx.PrimFunc,
    schedule: ScheduleFunction,
    target: Target,
    decisions: Decisions | None = None,
) -> s_tir.Schedule:
    """The schedule of a kernel at its default decisions, or at others that `listed` gave.

    Its functions are those of the target (`written_for`). ValueError for decisions that the
    schedule does not sample.
    """
    func = written_for(func, target)
    sch = s_tir.Schedule(func)
    schedule(sch, sch.get_sblock("tile"), target)
    if decisions is None or decisions == defaults(sch):
        return sch
    if not fits(sch, decisions):
        raise ValueError(f"decisions {decisions}: the schedule samples {defaults(sch)}")
    trace = sch.trace
    for inst, decision in zip(_samplings(sch), decisions, strict=True):
        wanted = list(decision)
        if _is_categorical(inst):
            wanted = _candidates(inst).index(decision)
        trace = trace.with_decision(inst, wanted, remove_postproc=False)
    replayed = s_tir.Schedule(func)
    trace.apply_to_schedule(replayed, remove_postproc=False)
    return replayed


def written_for(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """The same function with what the target computes otherwise: extrema, exp and its kin."""
    # OpenCL C has them for its vectors.
    return keeping_nan(by_polynomials(func) if target.kind.name == "llvm" else func, target)


def defaults(sch: s_tir.Schedule) -> Decisions:
    """The decisions that a schedule has taken."""
    taken = sch.trace.decisions
    return tuple(
        _candidates(inst)[int(taken[inst])]
        if _is_categorical(inst)
        else tuple(int(n) for n in taken[inst])
        for inst in _samplings(sch)
    )


def listed(sch: s_tir.Schedule) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """For each sampling of a schedule, everything that could be decided there."""
    return tuple(
        _candidates(inst)
        if _is_categorical(inst)
        else tuple(_factorisations(math.prod(decision), len(decision)))
        for inst, decision in zip(_samplings(sch), defaults(sch), strict=True)
    )


def fits(sch: s_tir.Schedule, decisions: Decisions) -> bool:
    """Whether the schedule could have taken these decisions."""
    taken = defaults(sch)
    return len(decisions) == len(taken) and all(
        one in _candidates(inst)
        if _is_categorical(inst)
        else len(one) == len(other) and math.prod(one) == math.prod(other)
        for inst, one, other in zip(_samplings(sch), decisions, taken, strict=True)
    )


def _samplings(sch: s_tir.Schedule) -> list[s_tir.schedule.Instruction]:
    kinds = ("SamplePerfectTile", "SampleCategorical")
    return [inst for inst in sch.trace.insts if inst.kind.name in kinds]


def _is_categorical(inst: s_tir.schedule.Instruction) -> bool:
    return inst.kind.name == "SampleCategorical"


def _candidates(inst: s_tir.schedule.Instruction) -> tuple[tuple[int], ...]:
    """What a categorical sampling takes one of."""
    return tuple((int(candidate),) for candidate in inst.attrs[0])


def _factorisations(extent: int, parts: int) -> list[tuple[int, ...]]:
    """All ways to write ``extent`` as a product of so many factors."""
    if parts == 1:
        return [(extent,)]
    return [
        (first, *rest)
        for first in range(1, extent + 1)
        if extent % first == 0
        for rest in _factorisations(extent // first, parts - 1)
    ]
