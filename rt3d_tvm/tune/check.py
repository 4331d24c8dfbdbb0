"""What a kernel should compute, in float64 and by numpy alone, at some of its positions.

Trials are timed, not looked at; the best of them are, before they are believed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rt3d_tvm.compile.choices.layer import Layer
from rt3d_tvm.tune.check_quantized import why_wrong_quantized
from rt3d_tvm.tune.windows import positions, window
from topi_sparse.cpu.quantized_kgs_conv3d import QuantizedKGSConv3d
from topi_sparse.elementwise import after_steps

# What one function behind a sum loses at most, in parts of 1 or of the largest result: in float32,
# exp and its kin are polynomials (schedules/transcendentals.py).
STEP_ERROR = 1e-6


def random_inputs(layer: Layer, *, seed: int = 0) -> dict[str, np.ndarray]:
    """The values that a layer is measured with: x, and the residual if there is one, not packed.

    Standard normal, of a quantised layer all the steps of its type; weights, offsets and bias are
    the layer's own.
    """
    conv, rng = layer.conv, np.random.default_rng(seed)

    def drawn(shape: tuple[int, ...]) -> np.ndarray:
        if isinstance(conv, QuantizedKGSConv3d):
            limits = np.iinfo(conv.dtype)
            return rng.integers(limits.min, limits.max, shape, conv.dtype, endpoint=True)
        return rng.standard_normal(shape, dtype="float32").astype(conv.dtype)

    return {"x": drawn(conv.data), **({"residual": drawn(conv.out)} if conv.residual else {})}


def why_wrong(
    layer: Layer,
    result: np.ndarray,
    default: np.ndarray,
    values: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
) -> str | None:
    """Why the packed result of a choice is not the layer's, or None where it is.

    Compared with float64 at positions drawn by ``seed``, and everywhere with the result of the
    default choice. Both within what a sum of that length in that type may lose (Higham, Accuracy
    and Stability of Numerical Algorithms, section 3.1).
    """
    conv = layer.conv
    if isinstance(conv, QuantizedKGSConv3d):
        return why_wrong_quantized(layer, conv, result, default, values, seed=seed)
    y, other = (conv.y.unpacked(each, conv.out).astype("float64") for each in (result, default))
    if not np.isfinite(y).all():
        return f"{np.count_nonzero(~np.isfinite(y))} of {y.size} outputs are not finite"
    weights = [weight.astype("float64") for weight in layer.weights()]
    # Of two sums, each may be that far from the true one.
    size = max(float(abs(weight).sum(axis=(1, 2, 3, 4)).max()) for weight in weights)
    size = size * float(abs(values["x"]).max()) + _largest(layer, values)
    far = float(abs(y - other).max())
    limit = _after_steps(layer, np.linspace(-size, size, 4097), 2 * _lost(layer) * size)
    if far > limit:
        return f"it is {far:.2g} away from the default's result, {limit:.2g} at most is rounding"
    for position in positions(conv, seed):
        total, size = _exact(layer, weights, values, position)
        limit = _after_steps(layer, np.array([total]), _lost(layer) * size)
        exact = float(after_steps(conv.steps, np.array([total]))[0])
        if abs(y[position] - exact) > limit:
            return (
                f"at {position} it is {y[position]:.6g} and {exact:.6g} in float64, "
                f"{limit:.2g} apart at most is rounding"
            )
    return None


def _lost(layer: Layer) -> float:
    """What a sum loses at most, in parts of the sum of its terms' absolute values."""
    conv = layer.conv
    channels = conv.data[1]
    terms = int(np.prod(conv.kernel)) * channels
    if conv.sums_apart:  # the terms of a chunk, then the sums of the chunks
        in_chunk = min(conv.tile.chunk * conv.group.g_n, channels)
        terms = int(np.prod(conv.kernel)) * in_chunk + channels // conv.group.g_n
    terms += 3  # bias, residual, the terms' own rounding
    summed = conv.summed_dtype
    unit = float(np.finfo(summed).eps) / 2
    lost = float(np.expm1(terms * np.log1p(unit)))
    # What is summed in another type is rounded once more, when it is stored.
    return lost if summed == conv.dtype else lost + (1 + lost) * float(np.finfo(conv.dtype).eps) / 2


def _after_steps(layer: Layer, sums: np.ndarray, lost: float) -> float:
    """How far apart two results may be, of sums like these that are ``lost`` apart."""
    conv = layer.conv
    if not conv.steps:
        return lost
    with np.errstate(all="ignore"):
        results = after_steps(conv.steps, sums)
        moved = [after_steps(conv.steps, sums + way * lost) - results for way in (-1, 1)]
    rounding = max(STEP_ERROR, float(np.finfo(conv.dtype).eps))
    largest = float(np.nanmax(abs(results)))
    return float(np.nanmax(np.abs(moved))) + len(conv.steps) * rounding * (1 + largest)


def _largest(layer: Layer, values: Mapping[str, np.ndarray]) -> float:
    """The largest bias and the largest residual."""
    residual = values.get("residual")
    return float(abs(layer.constants[3]).max()) + (
        0.0 if residual is None else float(abs(residual).max())
    )


def _exact(
    layer: Layer,
    weights: list[np.ndarray],
    values: Mapping[str, np.ndarray],
    position: tuple[int, ...],
) -> tuple[float, float]:
    """One output in float64, the steps still to come, and the sum of its terms' absolute values."""
    conv = layer.conv
    b, m, *out = position
    weight = weights[b // (conv.data[0] // conv.weight_sets)][m]
    taken, kernel = window(conv, out)
    x = values["x"][b][np.ix_(np.arange(conv.data[1]), *taken)].astype("float64")
    terms = x * weight[np.ix_(np.arange(conv.data[1]), *kernel)]
    bias = float(layer.constants[3][m])
    residual = float(values["residual"][position]) if conv.residual else 0.0
    total = float(terms.sum()) + bias + residual
    if conv.relu:
        total = max(total, 0.0)
    if conv.ceiling is not None:
        total = min(total, conv.ceiling)
    return total, float(abs(terms).sum()) + abs(bias) + abs(residual)
