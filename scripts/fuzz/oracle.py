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

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from scripts.fuzz.propagation import FUNCTION, attributes_of, error_of, largest

UNIT = {"float32": 2.0**-24, "float16": 2.0**-11}
WINOGRAD, MARGIN = 16.0, 4.0


@dataclass(frozen=True)
class Arithmetic:
    """The type that activations are stored in, that sums are added up in; whether by Winograd."""

    stored: str = "float32"
    summed: str = "float32"
    winograd: bool = False


def reference(model: onnx.ModelProto, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of the graph by its name, for the inputs by theirs.

    onnxruntime's errors where it cannot run the graph.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    outputs = [value.name for value in model.graph.output]
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
    values = dict(zip(outputs, session.run(outputs, dict(given)), strict=True))
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    return {**given, **constants, **values}


def bounds(
    model: onnx.ModelProto, values: dict[str, np.ndarray], arithmetic: Arithmetic
) -> dict[str, float]:
    """How far each output may be from the reference, by its name."""
    by_type = [errors_of(model, values, a) for a in (Arithmetic(), arithmetic)]
    return {
        output.name: MARGIN * sum(errors.get(output.name, 0.0) for errors in by_type)
        for output in model.graph.output
    }


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


def errors_of(
    model: onnx.ModelProto, values: dict[str, np.ndarray], arithmetic: Arithmetic
) -> dict[str, float]:
    """The typical error of each tensor that depends on an input."""
    u = UNIT[arithmetic.stored]
    names = [value.name for value in model.graph.input if value.name in values]
    errors = {name: u * largest(values[name]) for name in names}
    unsure: dict[str, np.ndarray] = {}  # where the result of a comparison may be the other one
    for node in model.graph.node:
        if not set(node.input) & set(errors):
            continue  # of constants alone
        known = [errors.get(name, 0.0) for name in node.input]
        inputs = [values[name] if name else np.zeros(0) for name in node.input]
        if node.op_type in _LINEAR:
            error = _LINEAR[node.op_type](node, known, inputs, arithmetic)
        elif node.op_type in ("Greater", "Less", "Equal"):
            unsure[node.output[0]] = abs(inputs[0] - inputs[1]) <= 2 * MARGIN * sum(known)
            error = 0.0
        elif node.op_type == "Where":
            error = max(known[1:])
            if node.input[0] in unsure:
                apart = abs(inputs[1].astype("float64") - inputs[2])
                error += largest(np.where(unsure[node.input[0]], apart, 0))
        else:
            error = error_of(node, known, inputs, u)
        for name in node.output:
            if name:
                errors[name] = error + u * largest(values[name])
    return errors


def _conv(node, known, inputs, arithmetic) -> float:
    w = inputs[1].reshape(inputs[1].shape[0], -1)
    winograd = arithmetic.winograd and inputs[1].shape[-2:] == (3, 3)
    return _products(w, known[0], inputs[0], arithmetic, WINOGRAD if winograd else 1.0)


def _conv_transpose(node, known, inputs, arithmetic) -> float:
    groups = attributes_of(node).get("group", 1)
    w = inputs[1].reshape(groups, -1, *inputs[1].shape[1:]).swapaxes(1, 2)
    return _products(w.reshape(groups * w.shape[1], -1), known[0], inputs[0], arithmetic, 1.0)


def _quantized(node, known, inputs, arithmetic) -> float:
    x, scale, zero, w, w_scale, w_zero, step = inputs[:7]
    shape = (-1, *[1] * (w.ndim - 1))
    w = (w - w_zero.reshape(shape).astype("float64")) * w_scale.reshape(shape)
    x = (x - float(zero)) * scale
    rounded = _products(w.reshape(w.shape[0], -1), known[0], x, arithmetic, 1.0)
    return rounded + float(step)


def _einsum(node, known, inputs, arithmetic) -> float:
    """By the largest element of each operand, and the length of the sum."""
    if len(inputs) == 1:
        return known[0]
    length = inputs[0].shape[-1] if inputs[1].ndim == inputs[0].ndim == 3 else inputs[1].shape[0]
    (a, b), root = (largest(each) for each in inputs), float(np.sqrt(length))
    u = UNIT[arithmetic.stored] + 2 * UNIT[arithmetic.summed] * root
    return float(np.hypot(root * b * known[0], root * a * known[1]) + u * root * a * b)


def _matrix(node, known, inputs, arithmetic) -> float:
    attributes = attributes_of(node)
    if known[1]:  # of two activations
        a, b = (largest(each) for each in inputs[:2])
        length = max(inputs[0].shape)
        u = UNIT[arithmetic.stored] + 2 * UNIT[arithmetic.summed] * np.sqrt(length)
        return float(length * (b * known[0] + a * known[1]) + u * np.sqrt(length) * a * b)
    w = inputs[1] if attributes.get("transB") else np.swapaxes(inputs[1], -1, -2)
    error = _products(w.reshape(-1, w.shape[-1]), known[0], inputs[0], arithmetic, 1.0)
    return error * max(1.0, abs(attributes.get("alpha", 1.0)))


def _recurrent(node, known, inputs, arithmetic) -> float:
    """What the gates of all steps are off by; an LSTM's state may grow by one in each."""
    x, w, r = inputs[:3]
    state = np.ones(1)
    gates = _products(w.reshape(-1, w.shape[-1]), known[0], x, arithmetic, 1.0)
    gates += _products(r.reshape(-1, r.shape[-1]), 0.0, state, arithmetic, 1.0)
    bias = largest(inputs[3]) if len(inputs) > 3 else 0.0
    gates += (FUNCTION + 2 * bias) * UNIT[arithmetic.stored]
    return len(x) * (len(x) if node.op_type == "LSTM" else 2) * gates


def _products(w, e, x, arithmetic, rounding) -> float:
    """Of sums of products of each row of ``w`` with a part of ``x``."""
    u, summed = UNIT[arithmetic.stored], UNIT[arithmetic.summed]
    two = float(np.sqrt((w.astype("float64") ** 2).sum(1).max(initial=0)))
    roundings = np.sqrt(w.shape[1] + 4) * summed * rounding + (2 * u if u != summed else 0)
    return float(np.hypot(two * e, roundings * two * largest(x)))


_LINEAR = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "QLinearConv": _quantized,
    "Gemm": _matrix,
    "MatMul": _matrix,
    "Einsum": _einsum,
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
}
