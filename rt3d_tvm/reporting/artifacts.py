"""The artifacts of a report: manifests, inputs, labelled videos, and the engines to time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rt3d_tvm.artifact.batches import parts_of
from rt3d_tvm.artifact.format import MANIFEST, read_manifest
from rt3d_tvm.artifact.opencl.artifact import is_for_opencl
from rt3d_tvm.artifact.tensors import Tensors, noise
from rt3d_tvm.engines.engine import Engine, artifact_engine, clips_of
from rt3d_tvm.engines.onnx_file import engines_of, refusal
from rt3d_tvm.errors import InputError
from rt3d_tvm.reporting.accuracy import labelled_videos

if TYPE_CHECKING:
    from rt3d_tvm.data.datasets import VideoDataset

RUNS = 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a report is made of.

    onnx: what the artifacts were compiled from, or what they are compared with: without it there
    is no error, no picture and no other engine. data: labelled videos, for the accuracy;
    videos: their kind, fold and split.
    preprocessing: what `artifact.description.prepared` takes instead of what a manifest says.
    all_engines: whether each of ``engines`` has to run the file; else one that cannot is left out.
    """

    folders: Sequence[Path]
    onnx: Path | None = None
    data: Path | None = None
    videos: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Callable[[dict], Mapping[str, Any]] = lambda manifest: {}
    engines: Sequence[str] = ("onnxruntime",)
    all_engines: bool = True
    runs: int = RUNS
    threads: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """An artifact, its manifest for each of its batches, and noise for each; labelled videos."""

    folder: Path
    manifest: dict
    parts: Mapping[int, dict]
    inputs: Mapping[int, Tensors]
    videos: VideoDataset | None

    @property
    def name(self) -> str:
        """As a report calls it."""
        return self.folder.name or str(self.folder)


def opened(settings: Settings) -> list[Opened]:
    """Every artifact; InputError for one of OpenCL, and for videos of other classes."""
    rng = np.random.default_rng(settings.seed)
    sets: list[VideoDataset] = []
    found = []
    for folder in settings.folders:
        manifest = read_manifest(folder / MANIFEST)
        if is_for_opencl(manifest):
            raise InputError(f"{folder} is for an OpenCL device; a report is of models on cores")
        drawn = [(part, noise(part, rng)) for part in parts_of(manifest)]
        found.append(
            Opened(
                folder=folder,
                manifest=manifest,
                parts={clips_of(x): part for part, x in drawn},
                inputs={clips_of(x): x for _, x in drawn},
                videos=_videos(settings, manifest, folder, sets),
            )
        )
    return found


def _videos(
    settings: Settings, manifest: dict, folder: Path, sets: list[VideoDataset]
) -> VideoDataset | None:
    """Those of --data, as the artifact takes them: one of the ``sets`` where that is the same."""
    if settings.data is None:
        return None
    given = settings.preprocessing(manifest)
    wanted = labelled_videos(settings.data, manifest, folder, settings.videos, **given)
    for known in sets:
        if known.sampling == wanted.sampling:
            return known
    sets.append(wanted)
    return wanted


def engines_by_batch(
    settings: Settings, artifacts: Sequence[Opened], left_out: list[str]
) -> dict[int, list[Engine]]:
    """What is timed in turns: of each batch the artifacts that have it, then the file's engines.

    Engines that do not run the file are ``left_out``. InputError for a file that fits none.
    """
    found: dict[int, list[Engine]] = {}
    refusals, fits = [], settings.onnx is None
    for batch in dict.fromkeys(batch for one in artifacts for batch in one.parts):
        having = [one for one in artifacts if batch in one.parts]
        found[batch] = [
            artifact_engine(one.folder, one.parts[batch], one.inputs[batch]) for one in having
        ]
        if settings.onnx is None:
            continue
        for one in having:
            reason = refusal(settings.onnx, one.parts[batch])
            if reason is None:
                found[batch] += _file_engines(settings, one, batch, left_out)
                fits = True
                break
            refusals.append(reason)
    if not fits:
        raise refusals[0]
    return found


def _file_engines(settings: Settings, one: Opened, batch: int, left_out: list[str]) -> list[Engine]:
    refused: list[str] | None = None if settings.all_engines else []
    those = engines_of(
        settings.onnx, settings.engines, one.parts[batch], one.inputs[batch], left_out=refused
    )
    left_out += [reason for reason in refused or () if reason not in left_out]
    return those
