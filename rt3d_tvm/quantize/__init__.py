"""Post-training quantisation: float32 ONNX -> QDQ ONNX in 8 bits, by onnxruntime's own tools."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import TensorsData

from rt3d_tvm.arguments import as_names, as_path
from rt3d_tvm.artifact.description import batches, prepared
from rt3d_tvm.data.preprocessing import Preprocessing
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import check_writable, whole_file
from rt3d_tvm.quantize.accuracy import Labelled, accuracies_of, least_in_float
from rt3d_tvm.quantize.clips import (
    Calibration,
    check_count,
    clips_of_videos,
    load_array,
    some_clips,
)
from rt3d_tvm.quantize.float_model import FloatModel, read_float_model
from rt3d_tvm.quantize.noise import Noise, noise_of
from rt3d_tvm.quantize.qdq import to_qdq
from rt3d_tvm.quantize.ranges import check_method, ranges_of

COUNT = 32
METHOD = "minmax"
_NAMED = 10


@dataclass(frozen=True, kw_only=True)
class QuantizedLayer:
    """A layer, its type (int8 or float32), and its signal-to-noise ratios in dB.

    snr_db: of the result in the file. own_snr_db: of the layer alone, given float inputs.
    weight_snr_db: of the weights. None: no noise, or no signal. reason: why it stays float32.
    """

    name: str
    dtype: str
    snr_db: float | None
    own_snr_db: float | None
    weight_snr_db: float | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What was written. The accuracies are None where no labelled clips were given."""

    path: Path
    bytes: int
    method: str
    clips: int
    layers: tuple[QuantizedLayer, ...]
    float_accuracy: float | None
    accuracy: float | None
    notes: tuple[str, ...]


def quantize_onnx(
    path: str | Path | FloatModel,
    output: str | Path,
    clips: np.ndarray | str | Path,
    *,
    count: int = COUNT,
    method: str = METHOD,
    preprocessing: Preprocessing | None = None,
    exclude: Sequence[str] = (),
    labelled: Labelled | None = None,
    max_drop: float | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Quantization:
    """Quantise a float32 ONNX file to QDQ: uint8 activations, int8 weights per filter, int32 bias.

    ``path`` may be what `read_float_model` read. ``clips`` are float32 (N, C, D, H, W) as the
    model takes them, a .npy file of such, or a folder of videos, cut as the model says or as
    ``preprocessing`` does. ``count`` of them are used. ``method`` finds the ranges: minmax, entropy
    or percentile. ``exclude`` names layers (`frontend.layer_names`) that stay float32. ``labelled``
    are items (clips of one video, its class). With ``max_drop`` as many of the noisiest layers stay
    float32 as it takes to lose no more points of accuracy.

    The file appears whole or not at all. InputError for a model that cannot be quantised, for
    clips or labels of another model, and where ``max_drop`` cannot be had.
    """
    output = as_path(output, "output")
    check_writable(output)
    _check_settings(method, count, max_drop, labelled)
    model = path if isinstance(path, FloatModel) else read_float_model(path)
    _check_other(output, model.path, clips)
    reasons = _excluded(model, as_names(exclude, "exclude"))
    progress("read clips")
    read = _calibration(model, clips, count, preprocessing)
    fed = batches(read.clips, model.manifest)
    progress(f"find ranges on {len(read.clips)} clips: {method}")
    run = _Run(model, ranges_of(model, fed, method), fed, progress)
    quantised, noise = run.measured(reasons)
    before = after = None
    if labelled is not None and max_drop is None:
        progress("accuracy in float32 and in int8")
        before, after = accuracies_of(model, [model.proto, quantised], labelled)
    elif labelled is not None:
        progress("accuracy in float32")
        (before,) = accuracies_of(model, [model.proto], labelled)
        first, reasons = reasons, run.chosen(reasons, noise, labelled, before, max_drop)
        quantised, noise = run.measured_again(reasons, first, quantised, noise)
        progress("accuracy in int8")
        (after,) = accuracies_of(model, [quantised], labelled)
    with whole_file(output) as temporary:
        size = temporary.write_bytes(quantised.SerializeToString())
    return Quantization(
        path=output,
        bytes=size,
        method=method,
        clips=len(read.clips),
        layers=tuple(_row(layer.name, noise, reasons) for layer in model.layers),
        float_accuracy=before,
        accuracy=after,
        notes=read.notes,
    )


@dataclass(frozen=True)
class _Run:
    """What each attempt needs: the model, the ranges of its tensors, the calibration's batches."""

    model: FloatModel
    ranges: TensorsData
    fed: Sequence[np.ndarray]
    progress: Callable[[str], None]

    def measured(self, in_float: Collection[str]) -> tuple[onnx.ModelProto, dict[str, Noise]]:
        self.progress("measure the layers' noise")
        quantised = to_qdq(self.model, self.ranges, in_float=in_float)
        return quantised, noise_of(self.model, quantised, self.fed)

    def measured_again(
        self,
        chosen: dict[str, str],
        reasons: dict[str, str],
        quantised: onnx.ModelProto,
        noise: dict[str, Noise],
    ) -> tuple[onnx.ModelProto, dict[str, Noise]]:
        """With the chosen layers in float32, whose own noise stays what it was in int8."""
        if chosen == reasons:
            return quantised, noise
        quantised, measured = self.measured(chosen)
        return quantised, {n: replace(each, own=noise[n].own) for n, each in measured.items()}

    def chosen(
        self,
        reasons: dict[str, str],
        noise: dict[str, Noise],
        labelled: Labelled,
        before: float,
        max_drop: float,
    ) -> dict[str, str]:
        """The reasons, with those of the layers that stay float32 for the accuracy's sake."""
        left = [layer.name for layer in self.model.layers if layer.name not in reasons]
        # No noise at all is what nothing is gained from.
        worst = sorted(left, key=lambda name: _or_infinite(noise[name].own))
        lost: dict[int, float] = {}

        def drop(many: int) -> float:
            if many not in lost:
                self.progress(f"accuracy with {many} layers in float32")
                kept = {*reasons, *worst[:many]}
                quantised = to_qdq(self.model, self.ranges, in_float=kept)
                (after,) = accuracies_of(self.model, [quantised], labelled)
                lost[many] = 100 * (before - after)
            return lost[many]

        # One layer at least is int8: what is float32 alone is the model as it was.
        many = least_in_float(drop, most=len(worst) - 1, max_drop=max_drop)
        if many is None:
            raise InputError(
                f"max_drop {max_drop:g}: {lost[max(lost)]:.4g} points are lost with {max(lost)} of "
                f"{len(left)} layers in float32; a larger one, another method or more clips may do"
            )
        return reasons | {
            name: f"number {rank} of the noisiest layers: its own SNR in int8 is "
            f"{_or_infinite(noise[name].own):.1f} dB"
            for rank, name in enumerate(worst[:many], 1)
        }


def _check_settings(
    method: str, count: int, max_drop: float | None, labelled: Labelled | None
) -> None:
    check_method(method)
    check_count(count)
    if max_drop is None:
        return
    if not 0 <= max_drop <= 100:
        raise InputError(f"max_drop {max_drop}: 0 to 100 points of accuracy are accepted")
    if labelled is None:
        raise InputError(f"max_drop {max_drop:g}: labelled clips are needed to measure it on")


def _check_other(output: Path, *read: object) -> None:
    """InputError for an output that is one of the files that are read."""
    for path in read:
        if isinstance(path, str | Path) and os.path.realpath(path) == os.path.realpath(output):
            raise InputError(f"output {output}: is a file that is read; another one is accepted")


def _excluded(model: FloatModel, exclude: Sequence[str]) -> dict[str, str]:
    """Why layers stay float32, by name; InputError for unknown names and where all of them do."""
    names = [layer.name for layer in model.layers]
    if unknown := [name for name in exclude if name not in names]:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise InputError(
            f"{model.path} has no layer {unknown[0]!r}; its layers are "
            f"{', '.join(names[:_NAMED])}{more}"
        )
    reasons = {layer.name: layer.why_not for layer in model.layers if layer.why_not is not None}
    reasons |= dict.fromkeys(exclude, "excluded")
    if len(reasons) == len(names):
        listed = ", ".join(f"{name} ({why})" for name, why in list(reasons.items())[:_NAMED])
        raise InputError(f"{model.path}: no layer is left to quantise: {listed}")
    return reasons


def _calibration(
    model: FloatModel,
    clips: np.ndarray | str | Path,
    count: int,
    preprocessing: Preprocessing | None,
) -> Calibration:
    shape = model.manifest["inputs"][0]["shape"]
    if isinstance(clips, np.ndarray):
        return some_clips(clips, shape, count, "clips")
    folder = as_path(clips, "clips")
    if not folder.is_dir():
        return some_clips(load_array(folder), shape, count, folder)
    used = prepared(model.manifest, model.path, instead=preprocessing)
    return clips_of_videos(folder, used, count)


def _or_infinite(decibels: float | None) -> float:
    return float("inf") if decibels is None else decibels


def _row(name: str, noise: dict[str, Noise], reasons: dict[str, str]) -> QuantizedLayer:
    found = noise[name]
    return QuantizedLayer(
        name=name,
        dtype="float32" if name in reasons else "int8",
        snr_db=found.total,
        own_snr_db=found.own,
        weight_snr_db=found.weight,
        reason=reasons.get(name),
    )
