"""What there is to train: the cells of a comparison, and the preset that decides them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rt3d_tvm.data.motion import MotionSettings
from rt3d_tvm.prune.train import DensePlan, PruningPlan

ALGORITHMS = ("heuristic", "regularization", "reweighted")
SETTINGS = "preset.json"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training: a dense model, or one that is pruned, a line of the table for one seed."""

    model: str
    seed: int
    algorithm: str | None = None
    scheme: str | None = None
    group: str | None = None
    rate: float | None = None
    value: float | None = None  # of the algorithm's own hyperparameter, where it is being chosen

    @property
    def dense(self) -> bool:
        return self.algorithm is None

    @property
    def of_dense(self) -> Cell:
        """The dense model that this one begins with."""
        return Cell(model=self.model, seed=self.seed)

    @property
    def name(self) -> str:
        start = f"{self.model}-seed{self.seed}"
        if self.dense:
            return f"{start}-dense"
        group = "" if self.scheme == "filter" else f"-{self.group}"
        value = "" if self.value is None else f"-at-{self.value:g}"
        return f"{start}-{self.algorithm}-{self.scheme}{group}-{self.rate:g}x{value}"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """All that decides the figures, fixed before the run; written beside the cells.

    ``choices`` are what each algorithm's own hyperparameter is chosen from (`chosen_value`):
    lambda, and the heuristic's rounds. As many for each, once a model, on ``choosing_seed``, which
    is none of ``seeds``: KGS at ``rate`` is trained on four fifths of the training videos and
    judged by the rest.
    """

    name: str
    width: Mapping[str, float]
    seeds: Mapping[str, tuple[int, ...]]
    top_rate: Mapping[str, float]
    dense: Mapping[str, DensePlan]
    pruning: PruningPlan
    choices: Mapping[str, tuple[float, ...]]
    choosing_seed: int
    frames: int
    size: int
    motion: MotionSettings | None
    rate: float = 2.6
    group: str = "4x4"
    wider_groups: tuple[str, ...] = ("8x4", "16x4", "32x4")
    cached: bool = True
    dropout: float | None = None

    def cells(self, model: str, seed: int) -> Iterator[Cell]:
        """Those of one dense checkpoint, in the order of the paper's table."""
        for algorithm in ALGORITHMS:
            for scheme in ("filter", "vanilla", "kgs"):
                yield self.cell(model, seed, algorithm, scheme, self.rate)
            yield self.cell(model, seed, algorithm, "kgs", self.top_rate[model])
        for group in self.wider_groups:
            cell = self.cell(model, seed, "reweighted", "kgs", self.top_rate[model])
            yield replace(cell, group=group)

    def choosing_cells(self, model: str) -> Iterator[Cell]:
        for algorithm in ALGORITHMS:
            for value in self.choices[algorithm]:
                cell = self.cell(model, self.choosing_seed, algorithm, "kgs", self.rate)
                yield replace(cell, value=value)

    def needed_by(self, cell: Cell) -> list[Cell]:
        """The cells that have to be there before it can be trained."""
        if cell.dense:
            return []
        if cell.value is not None:
            return [cell.of_dense]
        chosen = self.choosing_cells(cell.model)
        return [cell.of_dense, *(c for c in chosen if c.algorithm == cell.algorithm)]

    def cell(self, model: str, seed: int, algorithm: str, scheme: str, rate: float) -> Cell:
        return Cell(
            model=model, seed=seed, algorithm=algorithm, scheme=scheme, group=self.group, rate=rate
        )


def read_cells(root: Path) -> list[dict]:
    """Every cell in the folder of a preset, by name."""
    paths = sorted(path for path in Path(root).glob("*.json") if path.name != SETTINGS)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]
