"""Passes and schedules from outside of this package, put among the phases of a build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm.ir.transform import Pass
from tvm.s_tir.dlight import ScheduleRule

from rt3d_tvm.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Phases:
    """What a build adds to the phases of `rt3d_tvm.compile.pipeline`, whose ``names`` it has.

    Each method returns another value. A pass takes and returns a module of Relax. A schedule rule
    is asked before this package's; one that returns None leaves a kernel to the next.
    """

    names: tuple[str, ...]
    added: tuple[tuple[str, Pass], ...] = ()
    rules: tuple[ScheduleRule, ...] = ()

    def before(self, phase: str, name: str, added: Pass) -> Phases:
        """With a pass before the phase of that name; InputError for no such phase."""
        return self._with(phase, 0, name, added)

    def after(self, phase: str, name: str, added: Pass) -> Phases:
        """With a pass behind the phase of that name; InputError for no such phase."""
        return self._with(phase, 1, name, added)

    def scheduled_by(self, rule: ScheduleRule) -> Phases:
        """With a schedule rule, such as `schedules.table.KernelRule`."""
        return replace(self, rules=(*self.rules, rule))

    def _with(self, phase: str, offset: int, name: str, added: Pass) -> Phases:
        if phase not in self.names:
            raise InputError(f"phase {phase!r}: {', '.join(self.names)} are accepted")
        if name in self.names:
            raise InputError(f"phase {name!r} is there already; another name is accepted")
        place = self.names.index(phase) + offset
        names = (*self.names[:place], name, *self.names[place:])
        return replace(self, names=names, added=(*self.added, (name, added)))

    def applied(self, listed: Sequence[tuple[str, Pass]]) -> list[tuple[str, Pass]]:
        """The phases with what is added, in the order of ``names``.

        A phase that only some targets have keeps its place behind the one before it.
        """
        result = list(listed)
        own = dict(self.added)
        for place, name in enumerate(self.names):
            if name in own:
                before = self.names[place - 1] if place else None
                index = next((i for i, (n, _) in enumerate(result) if n == before), -1) + 1
                result.insert(index, (name, own[name]))
        return result
