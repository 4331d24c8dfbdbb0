"""How an operator of no products passes on the error of what it reads: see oracle.py."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx

# Exponentials and their like: how many units a library's approximation may be off.
FUNCTION = 4.0
# The largest derivatives of functions of one element, times what an alpha may make of it.
_SLOPES = {
    **dict.fromkeys(("Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish"), 1.1),
    "Elu": 1.6,
    "Selu": 2.2,
    "Gelu": 1.2,
    "Erf": 1.2,
    "Softplus": 1.1,
}


def error_of(node: onnx.NodeProto, known: list[float], inputs: list[np.ndarray], u: float) -> float:
    """The error of a result but for its own rounding, by those of the operands.

    u: the unit roundoff of what it is computed in.
    """
    op, e = node.op_type, known[0]
    if op in ("Add", "Sub", "Sum"):
        return sum(known)
    if op == "QuantizeLinear":
        return e + largest(inputs[1])  # of two steps the other one
    if op == "Mul":
        return known[0] * largest(inputs[1]) + known[1] * largest(inputs[0])
    if op == "Div":  # by a constant
        return e / max(1e-30, smallest(inputs[1]))
    if op == "PRelu":
        return e * max(1.0, largest(inputs[1]))
    if op in _SLOPES:
        return _SLOPES[op] * e + FUNCTION * u * max(1.0, largest(inputs[0]))
    if op in _FUNCTIONS:
        return _FUNCTIONS[op](e, inputs, u)
    if op in _SUMS:
        return _SUMS[op](node, e, inputs[0], u)
    if op in ("Softmax", "LogSoftmax"):
        far = largest(inputs[0]) if op == "LogSoftmax" else 0.0
        return 2 * e + FUNCTION * u * (1 + far)
    if op == "BatchNormalization":
        scale, _, mean, variance = inputs[1:5]
        gain = largest(scale / np.sqrt(variance + 1e-5))
        return gain * (e + 4 * u * (largest(inputs[0]) + largest(mean)))
    if op.endswith("Normalization"):
        return _normalised(node, e, inputs, u)
    if op == "Resize":  # the weights of what lies between add up to one, some below zero
        return 2 * e + 8 * u * largest(inputs[0])
    if op == "Cast":
        half = attributes_of(node).get("to") == onnx.TensorProto.FLOAT16
        return e + (2.0**-11 * largest(inputs[0]) if half else 0.0)
    return max(known)  # maxima, clips, concats and changes of shape


def _pow(e: float, inputs: list[np.ndarray], u: float) -> float:
    x, exponent = abs(inputs[0].astype("float64")), float(inputs[1].ravel()[0])
    base = largest(x) if exponent > 1 else smallest(x)
    return e * abs(exponent) * base ** (exponent - 1) + FUNCTION * u * largest(x**exponent)


_FUNCTIONS = {
    "Exp": lambda e, x, u: (e + FUNCTION * u) * float(np.exp(np.max(x[0], initial=-np.inf))),
    "Log": lambda e, x, u: e / smallest(x[0]) + FUNCTION * u * (1 + largest(np.log(x[0]))),
    "Sqrt": lambda e, x, u: 0.5 * e / np.sqrt(smallest(x[0])) + FUNCTION * u * largest(x[0]),
    "Reciprocal": lambda e, x, u: e / smallest(x[0]) ** 2 + FUNCTION * u / smallest(x[0]),
    "Pow": _pow,
}


def _mean(node: onnx.NodeProto, e: float, x: np.ndarray, u: float) -> float:
    count = max(2, x.size // max(1, x.shape[0]))
    return float(e + u * np.sqrt(count) * largest(x))


def _sum(node: onnx.NodeProto, e: float, x: np.ndarray, u: float) -> float:
    return x.size // max(1, x.shape[0]) * _mean(node, e, x, u)


def _norm(node: onnx.NodeProto, e: float, x: np.ndarray, u: float) -> float:
    count = max(2, x.size // max(1, x.shape[0]))
    return float(np.sqrt(count) * (e + u * np.sqrt(count) * largest(x)))


def _arg_max(node: onnx.NodeProto, e: float, x: np.ndarray, u: float) -> float:
    """The whole axis where another one may be the largest."""
    axis = attributes_of(node).get("axis", 0)
    if x.shape[axis] < 2:
        return 0.0
    ordered = np.sort(x, axis=axis)
    second, first = (np.take(ordered, place, axis=axis) for place in (-2, -1))
    return float(x.shape[axis]) if np.min(first - second) <= 16 * e else 0.0


_SUMS = {
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean"), _mean),
    **dict.fromkeys(("ReduceSum", "ReduceL1"), _sum),
    "ReduceL2": _norm,
    "ArgMax": _arg_max,
}


def _normalised(node: onnx.NodeProto, e: float, inputs: list[np.ndarray], u: float) -> float:
    """(x - mean) / deviation: the smaller the deviation, the more of the error."""
    attributes, x = attributes_of(node), inputs[0].astype("float64")
    if node.op_type == "LayerNormalization":
        rows = x.reshape(prod(x.shape[: attributes.get("axis", -1)]), -1)
    else:
        groups = attributes.get("num_groups", x.shape[1])
        rows = x.reshape(x.shape[0] * groups, -1)
    deviation = np.sqrt(rows.var(axis=1) + attributes.get("epsilon", 1e-5))
    apart = (abs(rows - rows.mean(axis=1, keepdims=True)).max(axis=1) / deviation).max(initial=0)
    # The variance is the mean of squares less the square of the mean, each of which is rounded.
    squares = (np.square(rows).max(axis=1) / deviation**2).max(initial=0)
    alone = 2 * (e + 4 * u * largest(x)) / deviation.min(initial=np.inf)
    return float(largest(inputs[1]) * (1 + apart) * (alone + FUNCTION * u * squares))


def attributes_of(node: onnx.NodeProto) -> dict[str, object]:
    """The attributes of a node by name."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def largest(value: np.ndarray) -> float:
    """The largest finite absolute value."""
    value = value[np.isfinite(value)] if value.dtype.kind == "f" else value
    return float(np.max(abs(value), initial=0))


def smallest(value: np.ndarray) -> float:
    """The smallest absolute value."""
    return float(np.min(abs(value), initial=np.inf))
