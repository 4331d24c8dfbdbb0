"""The range of each tensor on the calibration clips, by onnxruntime's own calibrators."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from rt3d_tvm.errors import InputError
from rt3d_tvm.files.staging import scratch_folder
from rt3d_tvm.quantize.float_model import FloatModel

# By the name that a user types. The bins of the histograms: with onnxruntime's own 128 the entropy
# has one threshold to choose from, the largest value.
METHODS = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 1024}),
    "percentile": (CalibrationMethod.Percentile, {"num_bins": 2048, "symmetric": False}),
}
# By how much a clip may widen a histogram before it gets wider bins.
MOST_GROWTH = 4
# What onnxruntime can quantise, but two: the probabilities of a Softmax below 1/256 would all be
# alike, and a BatchNormalization that no Conv takes in would get its factors in 8 bits.
OPERATORS = sorted({*QLinearOpsRegistry, *QDQRegistry} - {"Softmax", "BatchNormalization"})


def check_method(method: str) -> None:
    """InputError for a name that is not one of `METHODS`."""
    if method not in METHODS:
        raise InputError(f"method {method!r}: {', '.join(METHODS)} are accepted")


def ranges_of(model: FloatModel, batches: Sequence[np.ndarray], method: str) -> TensorsData:
    """The range of each tensor that may be quantised; InputError where a tensor is not finite."""
    check_method(method)
    kind, options = METHODS[method]
    name = model.manifest["inputs"][0]["name"]
    with scratch_folder("rt3d-quantize-") as folder, quiet():
        onnx.save(model.proto, folder / "model.onnx")
        calibrator = create_calibrator(
            folder / "model.onnx",
            OPERATORS,
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=kind,
            extra_options=options,
        )
        # One batch at a time: the histograms' calibrators keep all tensors of what they are given.
        for number, batch in enumerate(batches):
            calibrator.collect_data(_Reader({name: batch}))
            if not number and kind is not CalibrationMethod.MinMax:
                collector = calibrator.collector
                collector.merge_histogram = partial(_merged, collector.merge_histogram)
        ranges = calibrator.compute_data()
    for tensor, found in ranges.items():
        if not np.isfinite(found.range_value).all():
            raise InputError(
                f"{model.path}: tensor {tensor!r} is NaN or infinite on the calibration clips; a "
                "model that stays finite on them is accepted"
            )
    return ranges


def _merged(merge: Callable, old: tuple, data: np.ndarray, *new: np.ndarray) -> tuple:
    """A histogram with more data in it: onnxruntime's, or with bins that are as many as before.

    onnxruntime keeps the width of the bins. After a clip of next to nothing, such as a black one,
    the others would make millions of them.
    """
    counts, edges, low, high, threshold = old
    least, most, beyond = new
    if not 0 < MOST_GROWTH * threshold < beyond:
        return merge(old, data, *new)
    limits = (-beyond, beyond)
    added, new_edges = np.histogram(data, len(counts), range=limits)
    centres = (edges[1:] + edges[:-1]) / 2
    moved, _ = np.histogram(centres, len(counts), range=limits, weights=counts)
    return added + moved.astype(added.dtype), new_edges, min(low, least), max(high, most), beyond


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what onnxruntime's tools print and log about their own insides."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


class _Reader:
    """One feed, in the form in which the calibrators ask for them."""

    def __init__(self, feed: dict[str, np.ndarray]) -> None:
        self._feeds = [feed]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._feeds.pop() if self._feeds else None
