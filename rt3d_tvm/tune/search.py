"""The search over one kernel's choices: what was measured, and what to measure next."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
from tvm.target import Target

from rt3d_tvm.compile.choices.layer import Choice, Variant
from rt3d_tvm.compile.choices.space import decisions, variants
from rt3d_tvm.tune.cost_model import CostModel, features
from rt3d_tvm.tune.tasks import Task
from schedules.decisions import Decisions
from topi_sparse.cpu.kgs_conv3d import KGSConv3d

# Of the best so far, how many have their neighbours considered; how many others are drawn beside
# them; and which part of a round is taken at random from all of these.
PARENTS, DRAWN, EXPLORED = 4, 200, 0.25


class TaskSearch:
    """One task: its trials, and its next ones, which begin with the default."""

    def __init__(
        self, task: Task, target: Target, *, heights: tuple[int, ...] | None, seed: int = 0
    ) -> None:
        self.task, self._target = task, target
        layer = task.layer
        self._variants = variants(layer, target, heights=heights)
        self._spaces: dict[object, tuple] = {}
        self._rng = np.random.default_rng([seed, *task.name.encode()])
        self.default = self._at_defaults(layer.default)
        self.seconds: dict[Choice, float] = {}
        self.failed: dict[Choice, str] = {}
        self.exhausted = False

    @property
    def trials(self) -> int:
        """How many choices were measured, or failed."""
        return len(self.seconds) + len(self.failed)

    @property
    def best(self) -> float | None:
        """Seconds of the fastest choice."""
        return min(self.seconds.values(), default=None)

    def fastest(self, count: int) -> list[Choice]:
        """The fastest choices, the default left out."""
        others = [choice for choice in self.seconds if choice != self.default]
        return sorted(others, key=self.seconds.__getitem__)[:count]

    def kernel(self, choice: Choice) -> tuple[KGSConv3d, Decisions]:
        """The definition that a choice makes, and the decisions around it."""
        return self.task.layer.definition(choice.variant), choice.decisions

    def add(self, choice: Choice, seconds: tuple[float, ...], model: CostModel) -> None:
        """A trial that worked."""
        self.seconds[choice] = statistics.median(seconds)
        # Relative to the default, which is measured first; or else to the first that worked.
        first = self.seconds.get(self.default) or next(iter(self.seconds.values()))
        model.add(self._features(choice), self.seconds[choice] / first)

    def fail(self, choice: Choice, kind: str) -> None:
        """A trial that did not; it is not tried again."""
        self.failed[choice] = kind

    def propose(self, count: int, model: CostModel) -> list[Choice]:
        """What to measure next: the default, its neighbours, then what the model likes."""
        known = {*self.seconds, *self.failed}
        if self.default not in known:
            near = [choice for choice in self._neighbours(self.default) if choice not in known]
            drawn = self._rng.permutation(len(near))[: count - 1]
            return [self.default, *(near[index] for index in drawn)]
        pool = dict.fromkeys(
            choice
            for parent in [*self.fastest(PARENTS), self.default]
            for choice in self._neighbours(parent)
        )
        pool.update(dict.fromkeys(self._drawn() for _ in range(DRAWN)))
        fresh = [choice for choice in pool if choice not in known]
        if not fresh:
            self.exhausted = True
            return []
        scores = model.predict([self._features(choice) for choice in fresh])
        explored = [fresh[i] for i in self._rng.permutation(len(fresh))]
        # A stable order, so that a model that knows nothing yet leaves the draw to decide.
        order = dict(zip(fresh, scores, strict=True))
        liked = sorted(explored, key=order.__getitem__)
        count = min(count, len(fresh))
        chosen = liked[: count - int(EXPLORED * count)]
        chosen += [choice for choice in explored if choice not in chosen][: count - len(chosen)]
        return chosen

    def _at_defaults(self, variant: Variant) -> Choice:
        return Choice(variant=variant, decisions=self._space(variant)[0])

    def _space(self, variant: Variant) -> tuple:
        """Default decisions and all there are.

        They depend on the tile by its height only; where there are work-items, by all of it.
        """
        key = replace(variant, chunk=0) if variant.rows else variant.g_m
        if key not in self._spaces:
            definition = self.task.layer.definition(variant)
            self._spaces[key] = decisions(definition, self._target)
        return self._spaces[key]

    def _neighbours(self, choice: Choice) -> list[Choice]:
        """Every choice that differs in one knob: one decision, or one number of the tile."""
        found = []
        _, known = self._space(choice.variant)
        for axis, options in enumerate(known):
            for option in options:
                taken = (*choice.decisions[:axis], option, *choice.decisions[axis + 1 :])
                found.append(replace(choice, decisions=taken))
        for variant in self._variants:
            differing = [
                name
                for name in ("g_m", "channels", "rows", "width", "chunk", "texture")
                if getattr(variant, name) != getattr(choice.variant, name)
            ]
            # A texture's rows are its own, and may cut into other widths.
            if differing in (["width"], ["chunk"], ["texture"], ["width", "texture"]):
                found.append(self._with(variant, choice.decisions))
            # A work-item of more rows has room for fewer positions.
            elif differing and (
                set(differing) <= {"g_m", "channels"}
                or (variant.rows and set(differing) <= {"g_m", "rows", "width"})
            ):
                found.append(self._at_defaults(variant))
        return [other for other in found if other != choice]

    def _with(self, variant: Variant, taken: Decisions) -> Choice:
        """Another tile in a schedule, or in its default one where it cannot be scheduled so."""
        _, known = self._space(variant)
        fits = all(each in options for each, options in zip(taken, known, strict=True))
        return Choice(variant=variant, decisions=taken) if fits else self._at_defaults(variant)

    def _drawn(self) -> Choice:
        """Any choice; every second one has the default decisions of its tile."""
        variant = self._variants[self._rng.integers(len(self._variants))]
        choice = self._at_defaults(variant)
        if self._rng.integers(2):
            return choice
        _, known = self._space(variant)
        taken = tuple(options[self._rng.integers(len(options))] for options in known)
        return replace(choice, decisions=taken)

    def _features(self, choice: Choice) -> np.ndarray:
        layer = self.task.layer
        return features(
            layer.definition(choice.variant),
            layer.conv,
            choice.decisions,
            self._target,
        )


def next_task(searches: list[TaskSearch], *, most: int) -> TaskSearch | None:
    """The task to go on with: the one that takes most of the model's time per trial spent on it.

    Those without a trial come first; those that are exhausted, or have had ``most``, no more.
    """
    open_ones = [s for s in searches if not s.exhausted and s.trials < most]
    untried = [search for search in open_ones if not search.trials]
    if untried:
        return untried[0]
    return max(
        open_ones,
        key=lambda search: search.task.calls * (search.best or 0.0) / search.trials,
        default=None,
    )
