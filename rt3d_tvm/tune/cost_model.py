"""A cost model by XGBoost: from what a choice is to how long it takes beside its layer's default.

It learns from the trials of all layers at once. Its features are the knobs and what follows from
them (working sets, units of work, issue slots), as AutoTVM's were: features of the generated code,
as MetaSchedule extracts them, take a tenth of a second for each of these unrolled kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from tvm.target import Target

from schedules.decisions import Decisions
from topi_sparse.cpu.dot_unit import dot_unit
from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.cpu.quantized_choice import slots as dot_slots
from topi_sparse.cpu.quantized_choice import vectors_of
from topi_sparse.cpu.quantized_kgs_conv3d import QuantizedKGSConv3d
from topi_sparse.cpu.register_tile import issue_slots, vector_unit
from topi_sparse.layout import ceil_div
from topi_sparse.opencl.kgs_conv3d import OpenCLKGSConv3d

# Fewer trials than this say nothing yet.
MIN_TRIALS = 16
_PARAMETERS = {
    "objective": "reg:squarederror",
    "max_depth": 6,
    "eta": 0.15,
    "min_child_weight": 1,
    "subsample": 0.9,
    "seed": 0,
}
_TREES = 80


class CostModel:
    """Predicts log(time / the default's time); 0 for all until there are enough trials.

    threads: how many it may train with.
    """

    def __init__(self, *, threads: int) -> None:
        import xgboost

        self._xgboost = xgboost
        self._threads = threads
        self._rows: list[np.ndarray] = []
        self._times: list[float] = []
        self._booster: xgboost.Booster | None = None

    def add(self, features: np.ndarray, relative_time: float) -> None:
        """One trial more."""
        self._rows.append(features)
        self._times.append(math.log(relative_time))
        self._booster = None

    def predict(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """The prediction for each row of features, the smaller the faster."""
        if len(self._rows) < MIN_TRIALS or not len(rows):
            return np.zeros(len(rows))
        if self._booster is None:
            data = self._xgboost.DMatrix(np.stack(self._rows), np.array(self._times))
            parameters = {**_PARAMETERS, "nthread": self._threads}
            self._booster = self._xgboost.train(parameters, data, num_boost_round=_TREES)
        return self._booster.predict(self._xgboost.DMatrix(np.stack(rows)))


def features(conv: KGSConv3d, default: KGSConv3d, taken: Decisions, target: Target) -> np.ndarray:
    """A choice in numbers; ``conv`` is the kernel with its tile, ``default`` with its own one.

    Sizes as logarithms: bytes, counts, factors.
    """
    values = _VALUES[conv.name](conv, default, taken, target)
    return np.log2(np.array(values, "float64") + 1e-3).astype("f4")


def _item_values(
    conv: OpenCLKGSConv3d, default: OpenCLKGSConv3d, taken: Decisions, _target: Target
) -> list[float]:
    """Of a kernel of work-items: its tile and its work-group."""
    batch, _, depth, _, _ = conv.out
    rows, width, channels = conv.rows_per_item, conv.tile.width, conv.tile.channels
    vectors = conv.tile.vectors(rows)
    (across,), (together,), (in_turn,) = taken
    groups = batch * conv.rows[0] * (conv.group.g_m // rows) * ceil_div(conv.items, across)
    kd, kh, kw = conv.kernel
    return [
        conv.group.g_m / default.group.g_m,
        conv.weights / max(default.weights, 1),  # none where a layer is pruned whole
        rows,
        width,
        channels,
        rows * width,
        vectors * width,
        conv.tile.lanes,
        1 + conv.texture,
        # Loads for each multiply-add of a vector: of activations, of weights.
        1 / vectors,
        1 / width,
        conv.items,
        conv.items * width / conv.positions,
        conv.positions / math.prod(conv.out[3:]),
        across,
        together,
        across * together,
        in_turn,
        in_turn * rows / conv.filters,
        ceil_div(conv.items, across) * across / conv.items,
        groups * (depth // together),
        conv.weights / (conv.rows[0] * conv.group.g_m * conv.group.g_n),
        depth,
        kd,
        kh,
        kw,
    ]


def _float_values(
    conv: KGSConv3d, default: KGSConv3d, taken: Decisions, target: Target
) -> list[float]:
    """Of a kernel of a core that sums real numbers."""
    unit, columns = vector_unit(target, conv.dtype), min(conv.tile.width, conv.out[4])
    vectors, channels = conv.tile.vectors(conv.group.g_m), conv.tile.channels
    issued = issue_slots(vectors, conv.tile.lanes, columns, unit, channels)
    return _core_values(conv, default, taken, target, vectors=vectors, slots=issued)


def _quantized_values(
    conv: QuantizedKGSConv3d, default: QuantizedKGSConv3d, taken: Decisions, target: Target
) -> list[float]:
    """Of a kernel of a core that sums 8-bit products."""
    unit, rows = dot_unit(target), conv.group.g_m
    if unit is None:
        raise ValueError(f"target {target} has no 8-bit kernels")
    issued = dot_slots(rows, min(conv.tile.width, conv.out[4]), unit)
    return _core_values(conv, default, taken, target, vectors=vectors_of(rows, unit), slots=issued)


def _core_values(
    conv: KGSConv3d,
    default: KGSConv3d,
    taken: Decisions,
    target: Target,
    *,
    vectors: int,
    slots: float,
) -> list[float]:
    """Of a kernel of a core: its tile, its chunk, and the loops around them.

    vectors: of sums in a column of the tile; slots: what a kept column takes to issue.
    """
    threads = int(target.attrs.get("num-cores", 1))
    batch, _, depth, height, width = conv.out
    blocks, g_m, g_n = conv.rows[0], conv.group.g_m, conv.group.g_n
    columns, itemsize = min(conv.tile.width, width), np.dtype(conv.dtype).itemsize
    strips, rest = ceil_div(width, columns), width % columns
    # Outer and inner extents; a schedule without a decision leaves an axis in one piece outside.
    (p_out, p_in), (d_out, d_in), (h_out, h_in) = [
        (decision[0], math.prod(decision[1:])) for decision in taken
    ] or [(blocks, 1), (depth, 1), (height, 1)]
    units = batch * p_out * d_out * h_out
    kd, kh, kw = conv.kernel
    weights = conv.weights * itemsize / (blocks * conv.chunks)  # of one row block and chunk
    line = ((columns - 1) * conv.stride[2] + kw) * conv.tile.chunk * g_n * itemsize
    rows = (h_in - 1) * conv.stride[1] + kh
    planes = min((d_in - 1) * conv.stride[0] + kd, conv.data[2])
    return [
        conv.tile.chunk / default.tile.chunk,
        conv.chunks,
        g_m / default.group.g_m,
        conv.weights / max(default.weights, 1),  # none where a layer is pruned whole
        columns,
        vectors * columns,
        slots / (vectors * columns),
        conv.tile.channels,
        strips,
        rest / columns,
        units,
        ceil_div(units, threads) * threads / units,
        p_out,
        p_in,
        d_out,
        d_in,
        h_out,
        h_in,
        weights,
        weights * p_in,
        line * kd * kh,
        line * strips * rows * planes,
        line * strips * rows * planes * conv.chunks,
        p_in * g_m * d_in * h_in * width * itemsize,
        weights * p_in + line * strips * rows * planes,
        conv.weights / (blocks * g_m * g_n),
        width,
        kd,
        kh,
        batch,
    ]


# By the kernel's name.
_VALUES: dict[str, Callable[..., list[float]]] = {
    KGSConv3d.name: _float_values,
    QuantizedKGSConv3d.name: _quantized_values,
    OpenCLKGSConv3d.name: _item_values,
}
