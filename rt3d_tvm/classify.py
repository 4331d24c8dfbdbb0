"""What is in this video? An artifact, run on clips of a real file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rt3d_tvm.artifact.description import batches, description_of, prepared
from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.tensors import Runs, the_one
from rt3d_tvm.data.clips import VideoSource, read_clips
from rt3d_tvm.data.labels import read_labels as read_labels
from rt3d_tvm.data.labels import repeated
from rt3d_tvm.data.preprocessing import Preprocessing
from rt3d_tvm.errors import InputError
from rt3d_tvm.numerics.non_finite import non_finite

TOP = 5


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One of the likeliest classes; ``label`` is empty where no labels are given."""

    index: int
    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Classification:
    """The likeliest classes of a video, and the milliseconds that each stage took.

    The logits of ``clips`` pieces of it, every crop of every clip, were averaged. ``inference_ms``
    is that of all of them, the first run included.
    """

    source: VideoSource
    notes: tuple[str, ...]
    top: tuple[Prediction, ...]
    preprocessing: Preprocessing
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
    clips: int | None = None,
    stride: int | None = None,
    top: int = TOP,
    threads: int | None = None,
    loader: Callable[[], Runs] | None = None,
) -> Classification:
    """Run the artifact in ``folder`` on a video and return its ``top`` likeliest classes.

    ``preprocessing`` and ``labels`` are by default the artifact's own, those of the model's
    training; ``clips`` and ``stride`` replace what it says of them. The probabilities are the
    softmax of the logits' mean over clips and crops, as in the evaluation of a training.
    ``loader`` gives what runs instead, by default the artifact in ``folder`` on this machine.

    Raises InputError for a folder or video that will not do, for a model whose input is no clip of
    square RGB frames, for an artifact that does not say its preprocessing where none is given, and
    for labels that are not one for each of its logits.
    """
    started = time.perf_counter()
    artifact = load(folder, threads=threads) if loader is None else loader()
    the_one(artifact.manifest, "outputs", "classification")
    load_ms = (time.perf_counter() - started) * 1e3
    own = description_of(artifact.manifest, folder)
    used = prepared(artifact.manifest, folder, instead=preprocessing, clips=clips, stride=stride)
    check_labels(labels, artifact.manifest)
    labels = own.labels if labels is None else labels
    read = read_clips(video, **asdict(used))
    begun = time.perf_counter()
    parts = batches(read.array, artifact.manifest)
    logits = np.concatenate([artifact.run(part) for part in parts])[: len(read.array)]
    inference_ms = (time.perf_counter() - begun) * 1e3
    return Classification(
        source=read.source,
        notes=(*_differences(used, own.preprocessing), *read.notes, *_twofold(labels)),
        top=likeliest(_softmax_of_mean(logits, folder), labels, top),
        preprocessing=used,
        clips=len(read.array),
        load_ms=load_ms,
        decode_ms=read.decode_ms,
        preprocess_ms=read.preprocess_ms,
        inference_ms=inference_ms,
    )


def check_labels(labels: Sequence[str] | None, manifest: dict) -> None:
    """InputError for labels that are not one for each class of the model."""
    if labels is None:
        return
    classes = the_one(manifest, "outputs", "classification")["shape"][-1]
    if len(labels) != classes:
        raise InputError(
            f"{len(labels)} labels for a model of {classes} classes; one label each is accepted"
        )


def _differences(used: Preprocessing, own: Preprocessing | None) -> Iterator[str]:
    """What is done otherwise than the model says, as sentences."""
    if own is not None:
        for name, value in asdict(own).items():
            if getattr(used, name) != value:
                yield f"{name} {getattr(used, name)} instead of the model's own {value}"


def _twofold(labels: Sequence[str] | None) -> Iterator[str]:
    for label, classes in repeated(labels or ()).items():
        yield f"label {label!r} stands for the classes {', '.join(map(str, classes))}"


def _softmax_of_mean(logits: np.ndarray, folder: Path) -> np.ndarray:
    if logits.ndim != 2:
        raise InputError(f"{folder}: its output is {list(logits.shape)}; [clips, classes] expected")
    if (found := non_finite("its output", logits)) is not None:
        raise InputError(
            f"{folder}: {found} is not finite, and no class is the likeliest; `rt3d export` of its "
            "weights names those that are not"
        )
    return softmax(logits.astype(np.float64).mean(axis=0))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of one item's logits."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def likeliest(
    probabilities: np.ndarray, labels: Sequence[str] | None, top: int
) -> tuple[Prediction, ...]:
    """The ``top`` classes of the highest probabilities."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(
        Prediction(
            index=int(i), label=labels[i] if labels else "", probability=float(probabilities[i])
        )
        for i in order
    )
