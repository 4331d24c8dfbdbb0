"""What a graph is to compute, by ONNX Runtime as the graph is written, and how far one may be off.

The bound is propagated from the input on, tensor by tensor, as a size e that the error of one
element typically has. u is the unit roundoff of the type, n the length of a sum, a the largest
input:

- a convolution or matrix product rounds off sqrt(n) u |w|_2 a: roundings are of either sign (Higham
  and Mary, A new approach to probabilistic rounding error analysis, 2019). It multiplies e by
  |w|_2, the largest of its filters.
- 3x3 windows may be computed by Winograd's transforms, which round off WINOGRAD times as much.
- a quantisation may take the step beside the right one.
- means, pools, sums, products and functions of one element follow from their derivatives.
- float16 keeps sums in float32, or not; weights, inputs and results are rounded besides.

An element may be off by MARGIN e, e being that of this arithmetic and of the reference's float32.
As the largest input and filter stand for all of them, no kernel comes near: of 85 graphs the worst
was at a twelfth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

UNIT = {"float32": 2.0**-24, "float16": 2.0**-11}
WINOGRAD, MARGIN = 16.0, 4.0
# Exponentials and their like: how many units a library's approximation may be off.
FUNCTION = 4.0


@dataclass(frozen=True)
class Arithmetic:
    """The type that activations are stored in, that sums are added up in; whether by Winograd."""

    stored: str = "float32"
    summed: str = "float32"
    winograd: bool = False


def reference(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of the graph by its name; onnxruntime's errors where it cannot run the graph."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    outputs = list(known)
    for node in model.graph.node:
        outputs += [name for name in node.output if name and name not in known]
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs[len(known) :])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        wide.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    values = dict(zip(outputs, session.run(outputs, {name: x}), strict=True))
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    return {name: x, **constants, **values}


def bound(model: onnx.ModelProto, values: dict[str, np.ndarray], arithmetic: Arithmetic) -> float:
    """How far the output may be from the reference."""
    by_type = [_errors(model, values, a) for a in (Arithmetic(), arithmetic)]
    output = model.graph.output[0].name
    return MARGIN * sum(errors.get(output, 0.0) for errors in by_type)


def why_wrong(y: np.ndarray, expected: np.ndarray, limit: float, *, more_nan: bool) -> str | None:
    """What differs by more than it may.

    more_nan: not-a-numbers may spread, over the tile of a kernel.
    """
    if y.shape != expected.shape:
        return f"shape {y.shape}, expected {expected.shape}"
    nan, wanted = np.isnan(y), np.isnan(expected)
    if np.any(wanted & ~nan):
        return f"{np.count_nonzero(wanted & ~nan)} of {wanted.sum()} not-a-numbers became numbers"
    if np.any(nan & ~wanted) and not more_nan:
        return f"{np.count_nonzero(nan & ~wanted)} of {nan.size} numbers became not-a-numbers"
    with np.errstate(invalid="ignore"):
        same = nan | (y == expected)  # infinities
        error = np.where(same, 0, abs(y.astype("float64") - expected))
    if error.size and not error.max() <= limit:
        count = np.count_nonzero(~(error <= limit))
        return f"{count} of {error.size} values off by up to {error.max():.3g}, limit {limit:.2g}"
    return None


def _errors(
    model: onnx.ModelProto, values: dict[str, np.ndarray], arithmetic: Arithmetic
) -> dict[str, float]:
    u = UNIT[arithmetic.stored]
    errors = {model.graph.input[0].name: u * _largest(values[model.graph.input[0].name])}
    for node in model.graph.node:
        if not set(node.input) & set(errors):
            continue  # of constants alone
        known = [errors.get(name, 0.0) for name in node.input]
        inputs = [values[name] if name else np.zeros(0) for name in node.input]
        y = values[node.output[0]]
        if node.op_type in _LINEAR:
            error = _LINEAR[node.op_type](node, known, inputs, arithmetic)
        else:
            error = _error(node, known, inputs, u)
        errors[node.output[0]] = error + u * _largest(y)
    return errors


def _conv(node, known, inputs, arithmetic) -> float:
    w = inputs[1].reshape(inputs[1].shape[0], -1)
    winograd = arithmetic.winograd and inputs[1].shape[-2:] == (3, 3)
    return _products(w, known[0], inputs[0], arithmetic, WINOGRAD if winograd else 1.0)


def _matrix(node, known, inputs, arithmetic) -> float:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    w = inputs[1] if attributes.get("transB") else np.swapaxes(inputs[1], -1, -2)
    error = _products(w.reshape(-1, w.shape[-1]), known[0], inputs[0], arithmetic, 1.0)
    return error * max(1.0, abs(attributes.get("alpha", 1.0)))


def _products(w, e, x, arithmetic, rounding) -> float:
    """Of sums of products of each row of ``w`` with a part of ``x``."""
    u, summed = UNIT[arithmetic.stored], UNIT[arithmetic.summed]
    two = float(np.sqrt((w.astype("float64") ** 2).sum(1).max(initial=0)))
    roundings = np.sqrt(w.shape[1] + 4) * summed * rounding + (2 * u if u != summed else 0)
    return float(np.hypot(two * e, roundings * two * _largest(x)))


_LINEAR = {"Conv": _conv, "Gemm": _matrix, "MatMul": _matrix}


def _error(node: onnx.NodeProto, known: list[float], inputs: list[np.ndarray], u: float) -> float:
    """Of every other operator, but for the rounding of its result."""
    op, e = node.op_type, known[0]
    if op in ("Add", "Sub"):
        return sum(known[:2])
    if op == "QuantizeLinear":
        return e + _largest(inputs[1])  # of two steps the other one
    if op == "Mul":
        return known[0] * _largest(inputs[1]) + known[1] * _largest(inputs[0])
    if op == "Div":  # by a constant
        return e / max(1e-30, float(np.min(abs(inputs[1]), initial=np.inf)))
    if op == "BatchNormalization":
        scale, _, mean, variance = inputs[1:5]
        gain = _largest(scale / np.sqrt(variance + 1e-5))
        return gain * (e + 4 * u * (_largest(inputs[0]) + _largest(mean)))
    if op in ("AveragePool", "GlobalAveragePool", "ReduceMean"):
        count = max(2, inputs[0].size // max(1, inputs[0].shape[0]))
        return e + u * np.sqrt(count) * _largest(inputs[0])
    if op in ("Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu"):
        return 1.1 * e + FUNCTION * u
    if op == "Softmax":
        return e + FUNCTION * u
    return max(known)  # maxima, clips, concats and changes of shape


def _largest(value: np.ndarray) -> float:
    """The largest finite absolute value."""
    value = value[np.isfinite(value)] if value.dtype.kind == "f" else value
    return float(np.max(abs(value), initial=0))
