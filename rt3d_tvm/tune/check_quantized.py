"""What a quantised kernel should compute: integer sums, then the float32 steps of ONNX."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rt3d_tvm.compile.choices.layer import Layer
from rt3d_tvm.tune.windows import positions, window
from topi_sparse.cpu.quantized_kgs_conv3d import QuantizedKGSConv3d

# Roundings of float32 between a rounded convolution and its sum with a residual: two products, the
# sum, and the change of scale. A compiler may leave out some of them.
_ROUNDINGS = 4


def why_wrong_quantized(
    layer: Layer,
    conv: QuantizedKGSConv3d,
    result: np.ndarray,
    default: np.ndarray,
    values: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
) -> str | None:
    """Why the packed result of a choice is not that of ``conv``, the layer's, or None where it is.

    As `check.why_wrong`. Sums are exact, so that results are equal; where a residual is added, a
    sum between two steps may go to either.
    """
    y, other = (conv.y.unpacked(each, conv.out).astype("float64") for each in (result, default))
    apart = 0 if conv.added is None else 1
    # NaN is never near.
    if differing := np.count_nonzero(~(abs(y - other) <= apart)):
        steps = f" by more than {apart} step" if apart else ""
        return f"{differing} of {y.size} outputs differ from the default's{steps}"
    constants = dict(zip(conv.constants, layer.constants, strict=True))
    weights = layer.weights()[0].astype("int64")
    for position in positions(conv, seed):
        total = np.float32(_sum(conv, weights, constants["bias"], values["x"], position))
        value = total * constants["scale"][position[1]]
        low, high = _accepted(conv, value, values, position)
        if not low <= y[position] <= high:
            exact = f"{low:.6g}" if low == high else f"{low:.6g} or {high:.6g}"
            return f"at {position} it is {y[position]:.6g} and has to be {exact}"
    return None


def _accepted(
    conv: QuantizedKGSConv3d,
    value: np.float32,
    values: Mapping[str, np.ndarray],
    position: tuple[int, ...],
) -> tuple[float, float]:
    """What one output may be, from and to; ``value`` is the scaled sum."""
    if conv.is_real:
        value = max(value, np.float32(0)) if conv.relu else value
        value = value if conv.ceiling is None else min(value, np.float32(conv.ceiling))
        return float(value), float(value)
    exact, lost = float(value), 0.0
    if conv.added is not None:
        added = conv.added
        residual = int(values["residual"][position]) - added.residual_zero
        own = float(np.rint(np.clip(value, added.low, added.high))) * added.step
        terms = np.array([own, residual * added.residual_step]) * added.per_step
        exact = float(terms.sum())
        lost = _ROUNDINGS * float(np.finfo("float32").eps) * float(abs(terms).sum())
    low, high = (
        float(np.rint(np.clip(exact + far, conv.low, conv.high))) + conv.y.fill
        for far in (-lost, lost)
    )
    return low, high


def _sum(
    conv: QuantizedKGSConv3d,
    weights: np.ndarray,
    bias: np.ndarray,
    x: np.ndarray,
    position: tuple[int, ...],
) -> int:
    """The bias and the products of one output, as int32 holds them."""
    b, m, *out = position
    taken, kernel = window(conv, out)
    channels = np.arange(conv.data[1])
    inputs = x[b][np.ix_(channels, *taken)].astype("int64") - conv.x.fill
    total = int(bias[m]) + int((inputs * weights[m][np.ix_(channels, *kernel)]).sum())
    if not conv.corrects_planes:  # the bias is less what the zero point adds to a whole window
        total += conv.x.fill * int(weights[m].sum())
    return (total + 2**31) % 2**32 - 2**31
