"""What is in this video? An artifact, run on clips of a real file."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rt3d_tvm.artifact.load import Artifact, load
from rt3d_tvm.data.clips import VideoSource, read_clips
from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
from rt3d_tvm.errors import InputError
from rt3d_tvm.non_finite import non_finite

TOP = 5


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How frames become the model's input; see `rt3d_tvm.data.clips.read_clips`."""

    resize: int | tuple[int, int]
    mean: tuple[float, ...] = KINETICS_MEAN
    std: tuple[float, ...] = KINETICS_STD


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One of the likeliest classes; ``label`` is empty where no labels are given."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Classification:
    """The likeliest classes of a video, and the milliseconds that each stage took.

    ``clips`` were averaged. ``inference_ms`` is that of all of them, the first run included.
    """

    source: VideoSource
    notes: tuple[str, ...]
    top: tuple[Prediction, ...]
    clips: int
    load_ms: float
    decode_ms: float
    preprocess_ms: float
    inference_ms: float


def classify_video(
    folder: Path,
    video: Path,
    *,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
    clips: int = 1,
    stride: int = 1,
    threads: int | None = None,
    loader: Callable[[], Artifact] | None = None,
) -> Classification:
    """Run the artifact in ``folder`` on a video and return its `TOP` likeliest classes.

    The probabilities are the mean over ``clips`` of the softmax of the logits. By default frames
    are resized to 8/7 of the model's input and normalised as Kinetics-400 is, and the notes say so.
    ``loader`` gives what runs instead, by default the artifact in ``folder`` on this machine.

    Raises InputError for a folder or video that will not do, for a model whose input is no clip of
    square RGB frames, and for labels that are not one for each of its logits.
    """
    started = time.perf_counter()
    artifact = load(folder, threads=threads) if loader is None else loader()
    load_ms = (time.perf_counter() - started) * 1e3
    batch, frames, size = _clip_shape(artifact.manifest, folder)
    classes = artifact.manifest["outputs"][0]["shape"][-1]
    if labels is not None and len(labels) != classes:
        raise InputError(
            f"{len(labels)} labels for a model of {classes} classes; one label each is accepted"
        )
    notes: tuple[str, ...] = ()
    if preprocessing is None:
        preprocessing = Preprocessing(resize=size * 8 // 7)
        notes = (
            f"frames are resized to {preprocessing.resize} and normalised as Kinetics-400 is; "
            "another model may expect something else",
        )
    rounds = -(-clips // batch)
    read = read_clips(
        video,
        frames=frames,
        size=size,
        resize=preprocessing.resize,
        mean=preprocessing.mean,
        std=preprocessing.std,
        clips=rounds * batch,
        stride=stride,
    )
    begun = time.perf_counter()
    logits = np.concatenate([artifact.run(part) for part in np.split(read.array, rounds)])
    inference_ms = (time.perf_counter() - begun) * 1e3
    return Classification(
        source=read.source,
        notes=notes + read.notes,
        top=_likeliest(_mean_softmax(logits, folder), labels),
        clips=rounds * batch,
        load_ms=load_ms,
        decode_ms=read.decode_ms,
        preprocess_ms=read.preprocess_ms,
        inference_ms=inference_ms,
    )


def read_labels(path: Path) -> list[str]:
    """Read a file of one label a line; InputError if it cannot be read as text."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text in UTF-8; one label a line is expected") from error


def _clip_shape(manifest: dict, folder: Path) -> tuple[int, int, int]:
    """Clips in a batch, frames of a clip, height and width of a frame."""
    shape = manifest["inputs"][0]["shape"]
    if len(shape) != 5 or shape[1] != 3 or shape[3] != shape[4]:
        raise InputError(
            f"{folder}: its input is {shape}; a model of RGB clips is expected: [clips, 3, frames, "
            "size, size]"
        )
    return shape[0], shape[2], shape[3]


def _mean_softmax(logits: np.ndarray, folder: Path) -> np.ndarray:
    if logits.ndim != 2:
        raise InputError(f"{folder}: its output is {list(logits.shape)}; [clips, classes] expected")
    if (found := non_finite("its output", logits)) is not None:
        raise InputError(
            f"{folder}: {found} is not finite, and no class is the likeliest; `rt3d export` of its "
            "weights names those that are not"
        )
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)


def _likeliest(probabilities: np.ndarray, labels: Sequence[str] | None) -> tuple[Prediction, ...]:
    order = np.argsort(-probabilities, kind="stable")[:TOP]
    return tuple(
        Prediction(
            index=int(i), label=labels[i] if labels else "", probability=float(probabilities[i])
        )
        for i in order
    )
