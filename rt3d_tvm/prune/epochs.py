"""The data of a training, and its batches in each epoch: the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from rt3d_tvm.prune.plans import EPOCHS, DensePlan, PruningPlan


@dataclass(frozen=True, kw_only=True)
class VideoData:
    """Training items (clip, class index) and testing items (clips, class index).

    Either may have ``set_epoch``, called with the number of each epoch before it begins.
    """

    train: Dataset
    test: Dataset
    workers: int = 0


class _Order:
    """A sampler: the training videos in the order of one epoch."""

    def __init__(self, plan: DensePlan | PruningPlan, dataset: Dataset, epoch: int) -> None:
        generator = torch.Generator().manual_seed(plan.seed * EPOCHS + epoch)
        order = torch.randperm(len(dataset), generator=generator).tolist()
        self._order = order[: steps_of(dataset, plan) * plan.batch]

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


def epoch_batches(data: VideoData, plan: DensePlan | PruningPlan, *, epoch: int) -> DataLoader:
    """The batches of one epoch, in the order that its number and the plan's seed give."""
    set_epoch = getattr(data.train, "set_epoch", None)
    if set_epoch is not None:
        set_epoch(epoch)
    return DataLoader(
        data.train,
        batch_size=plan.batch,
        sampler=_Order(plan, data.train, epoch),
        num_workers=data.workers,
        # An iterator draws a seed: not from the generator that dropout draws from.
        generator=torch.Generator().manual_seed(epoch),
    )


def steps_of(dataset: Dataset, plan: DensePlan | PruningPlan) -> int:
    """Batches in an epoch; the rest of the videos, less than a batch, has its turn in another."""
    steps = max(len(dataset) // plan.batch, 1)
    return steps if plan.steps_per_epoch is None else min(steps, plan.steps_per_epoch)
