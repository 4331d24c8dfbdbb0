"""Accuracy on labelled clips, and which layers have to stay float32 to keep it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.artifact.description import batches
from rt3d_tvm.errors import InputError
from rt3d_tvm.quantize.session import exact_session

if TYPE_CHECKING:
    import onnx

    from rt3d_tvm.quantize.float_model import FloatModel

# Differences of percentages that are rounding alone, in points.
_ROUNDING = 1e-9

# Items ((K, ...) clips of one video, its class); a class below 0 is that of a damaged video.
Labelled = Sequence[tuple[np.ndarray, int]]


class LabelledClips(Sequence):
    """Clips, each with a class of its own, as `Labelled`.

    InputError for classes that are no whole numbers, one for each clip.
    """

    def __init__(self, clips: np.ndarray, labels: np.ndarray, where: object = "labels") -> None:
        labels = np.asarray(labels)
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f"{where}: {labels.dtype} of shape {list(labels.shape)}; one whole number for each "
                "clip is accepted, the index of its class"
            )
        if len(labels) != len(clips):
            raise InputError(f"{where}: {len(labels)} labels for {len(clips)} clips")
        if (labels < 0).any():
            raise InputError(f"{where}: label {labels.min()}; at least 0 is accepted")
        self._clips, self._labels = clips, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index):
        return self._clips[index][None], int(self._labels[index])


def accuracies_of(
    model: FloatModel, protos: Sequence[onnx.ModelProto], labelled: Labelled
) -> list[float]:
    """The share of items whose clips' mean logits are largest at the item's class, for each model.

    Each item is read once. InputError for a class that the model has not, and where no item is
    left.
    """
    sessions, manifest = [exact_session(proto) for proto in protos], model.manifest
    name, classes = manifest["inputs"][0]["name"], manifest["outputs"][0]["shape"]
    if len(classes) != 2:
        raise InputError(f"{model.path}: its output is {classes}; [clips, classes] is expected")
    right, total = [0] * len(protos), 0
    for index in range(len(labelled)):
        clips, label = labelled[index]
        if label < 0:
            continue
        if label >= classes[1]:
            raise InputError(
                f"label {label} of item {index}: {model.path} has {classes[1]} classes, 0 to "
                f"{classes[1] - 1}"
            )
        parts = batches(np.asarray(clips), manifest)
        for place, session in enumerate(sessions):
            logits = np.concatenate([session.run(None, {name: part})[0] for part in parts])
            right[place] += int(logits[: len(clips)].mean(axis=0).argmax() == label)
        total += 1
    if not total:
        raise InputError("no labelled clip to test on: there is none, or all are damaged")
    return [each / total for each in right]


def least_in_float(drop: Callable[[int], float], *, most: int, max_drop: float) -> int | None:
    """How many of the worst layers have to stay float32; None where ``most`` are not enough.

    ``drop`` measures the points lost with so many. The number is doubled until it is enough, and
    the last step is halved: some 2 log2 measurements.
    """

    def enough(count: int) -> bool:
        return drop(count) <= max_drop + _ROUNDING

    if enough(0):
        return 0
    failed, tried = 0, min(1, most)
    while tried and not enough(tried):
        if tried == most:
            return None
        failed, tried = tried, min(2 * tried, most)
    if not tried:
        return None
    while tried - failed > 1:
        middle = (failed + tried) // 2
        failed, tried = (failed, middle) if enough(middle) else (middle, tried)
    return tried
