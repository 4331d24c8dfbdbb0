"""Top-1 accuracy of a model on the testing items of a data set."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.activations import eval_mode

# Clips that go through the model at once: a testing item holds several.
_CLIPS_AT_ONCE = 32


def accuracy(model: nn.Module, dataset: Dataset, *, workers: int = 0) -> float:
    """The share of videos whose clips' mean logits are largest at the video's class.

    An item is (clips [K, 3, frames, size, size], class index); those with an index below 0 were
    skipped as damaged and do not count. InputError if that leaves none, and for outputs that are
    not finite.
    """
    return accuracies([model], dataset, workers=workers)[0]


def accuracies(models: Sequence[nn.Module], dataset: Dataset, *, workers: int = 0) -> list[float]:
    """`accuracy` of each of several models on one device: the videos are read once."""
    right, total = [0] * len(models), 0
    model_device = next(models[0].parameters()).device
    # A generator of its own: an iterator draws a seed, which is not to disturb the training.
    items = DataLoader(dataset, batch_size=None, num_workers=workers, generator=torch.Generator())
    with contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(eval_mode(model))
        stack.enter_context(torch.inference_mode())
        for clips, labels in _batches(items):
            on_device = clips.flatten(0, 1).to(model_device)
            for place, model in enumerate(models):
                logits = _logits(model, on_device)
                mean = logits.unflatten(0, clips.shape[:2]).mean(1).cpu()
                if not bool(torch.isfinite(mean).all()):
                    raise InputError(
                        "the model's outputs are NaN or infinite on test videos: it has diverged"
                    )
                right[place] += int((mean.argmax(1) == labels).sum())
            total += len(labels)
    if not total:
        raise InputError("no video to test on: the test split is empty, or all of it is damaged")
    return [each / total for each in right]


def _batches(items):
    """Whole videos, about `_CLIPS_AT_ONCE` clips together: ([N, K, 3, ...], labels [N])."""
    clips, labels = [], []
    for item, label in items:
        if int(label) < 0:
            continue
        clips.append(item)
        labels.append(int(label))
        if len(clips) * len(item) >= _CLIPS_AT_ONCE:
            yield torch.stack(clips), torch.tensor(labels)
            clips, labels = [], []
    if clips:
        yield torch.stack(clips), torch.tensor(labels)


def _logits(model: nn.Module, clips: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(part) for part in clips.split(_CLIPS_AT_ONCE)])
