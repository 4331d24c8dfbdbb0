"""The share of labelled videos that a compiled model, or its ONNX file, names rightly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rt3d_tvm.artifact.description import batches, prepared
from rt3d_tvm.artifact.tensors import the_one
from rt3d_tvm.data.datasets import VideoDataset, open_dataset
from rt3d_tvm.errors import InputError


def labelled_videos(
    data: Path, manifest: dict, model: Path, how: Mapping[str, Any] | None = None, **given: Any
) -> VideoDataset:
    """The test split of ``data``, cut as the model says, with what is ``given`` in its stead.

    ``model`` is what messages call it: an artifact's folder, or an ONNX file. ``how``: what else
    `open_dataset` takes: kind, fold, split, cache. InputError where there are none, where neither
    says how clips are made, and for a model of other classes.
    """
    if not data.exists():
        raise InputError(f"{data}: no such folder; the folder of a data set is expected")
    used = prepared(manifest, model, **given)
    opened = {"split": "test", "cache": True, **(how or {}), **used.dataset_arguments()}
    found = open_dataset(data, training=False, **opened)
    classes = the_one(manifest, "outputs", "accuracy")["shape"][-1]
    if len(found.classes) != classes:
        raise InputError(f"{model} has {classes} classes; {data} has {len(found.classes)}")
    for index, known in enumerate(manifest.get("labels") or ()):
        if known != found.classes[index]:
            raise InputError(
                f"class {index} of {model} is {known!r}, that of {data} is "
                f"{found.classes[index]!r}; a data set of the model's own classes is accepted"
            )
    return found


def accuracy(
    run: Callable[[np.ndarray], np.ndarray], manifest: dict, videos: VideoDataset
) -> float:
    """The share of videos whose clips' mean logits are largest at their class.

    InputError where no video is left: damaged ones do not count.
    """
    right = total = 0
    for index in range(len(videos)):
        clips, label = videos[index]
        if label < 0:
            continue
        clips = np.asarray(clips)
        logits = np.concatenate([run(part) for part in batches(clips, manifest)])[: len(clips)]
        right += int(logits.mean(axis=0).argmax() == label)
        total += 1
    if not total:
        raise InputError("--data: no video to test on: there is none, or all are damaged")
    return right / total
