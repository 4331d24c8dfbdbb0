"""Functions of single values, and the steps that a kernel takes from a sum to what it stores.

One table serves kernels, loop nests and numpy: name -> the value, of ``m`` (what computes max, min,
exp and so on of such values) and the operands, of which some may be numbers. Steps are a program:
step i makes value i of its operands, of which an int is a value, 0 the sum, and a float a number::

    (("sigmoid", (0,)), ("multiply", (0, 1)))      # SiLU: x * sigmoid(x)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from topi_sparse.activation import upper_bound

Step = tuple[str, tuple[int | float, ...]]


class _Expressions:
    """On vectors of a kernel, or single values of a loop nest."""

    exp, sigmoid, tanh, erf, sqrt, abs = te.exp, te.sigmoid, te.tanh, te.erf, te.sqrt, te.abs

    @staticmethod
    def max(a, b):
        """The larger one; the second may be a number."""
        return te.max(a, _like(a, b))

    @staticmethod
    def min(a, b):
        """The smaller one; the second may be a number."""
        return te.min(a, _like(a, b))


class _Arrays:
    """On numpy's arrays."""

    max, min, exp, tanh, sqrt, abs = np.maximum, np.minimum, np.exp, np.tanh, np.sqrt, np.abs
    erf = np.vectorize(math.erf, otypes=["float64"])

    @staticmethod
    def sigmoid(a):
        """1 / (1 + exp(-a))."""
        return 1 / (1 + np.exp(-a))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": lambda m, a, b: a + b,
    "subtract": lambda m, a, b: a - b,
    "multiply": lambda m, a, b: a * b,
    # A division takes a vector unit ten times as long as a product.
    "divide": lambda m, a, b: a * (1 / b) if isinstance(b, float) and b else a / b,
    "maximum": lambda m, a, b: m.max(b, a) if isinstance(a, float) else m.max(a, b),
    "minimum": lambda m, a, b: m.min(b, a) if isinstance(a, float) else m.min(a, b),
    "negative": lambda m, a: a * -1.0,
    "abs": lambda m, a: m.abs(a),
    "exp": lambda m, a: m.exp(a),
    "sqrt": lambda m, a: m.sqrt(a),
    "sigmoid": lambda m, a: m.sigmoid(a),
    "tanh": lambda m, a: m.tanh(a),
    "erf": lambda m, a: m.erf(a),
    "relu": lambda m, a: m.max(a, 0.0),
    # Of a value and its slope below 0; no comparison, which OpenCL C's vectors would need.
    "leaky_relu": lambda m, a, b: m.max(a, 0.0) + m.min(a, 0.0) * b,
    "silu": lambda m, a: a * m.sigmoid(a),
    "gelu": lambda m, a: a * 0.5 * (m.erf(a * math.sqrt(0.5)) + 1.0),
    "gelu_tanh": lambda m, a: (
        a * 0.5 * (m.tanh((a + a * a * a * 0.044715) * math.sqrt(2 / math.pi)) + 1.0)
    ),
}


def computed(name: str, *operands: Any) -> Any:
    """A function of the table, of TIR expressions and numbers."""
    return FUNCTIONS[name](_Expressions, *operands)


def after_steps(steps: Sequence[Step], value: Any) -> Any:
    """What a program makes of a sum, a TIR expression or an array."""
    values = [value]
    functions = _Arrays if isinstance(value, np.ndarray) else _Expressions
    for name, operands in steps:
        taken = [values[each] if isinstance(each, int) else each for each in operands]
        values.append(FUNCTIONS[name](functions, *taken))
    return values[-1]


def is_finite_at_zero(name: str, operands: Sequence[float | None]) -> bool:
    """Whether a function of zeros is finite; ``operands``: None, or a number that is given.

    The channels above C of a packed tensor are zeros, and an infinity times a weight of 0 is none.
    """
    zeros = [np.zeros(1) if each is None else each for each in operands]
    with np.errstate(all="ignore"):
        return bool(np.isfinite(FUNCTIONS[name](_Arrays, *zeros)).all())


def steps_from_json(steps: Sequence) -> tuple[Step, ...]:
    """The program that was written as JSON."""
    return tuple((name, tuple(operands)) for name, operands in steps)


def _like(value: tirx.PrimExpr, other: Any) -> Any:
    """A number in the type of a value, in each of its lanes; what is none as it is."""
    if not isinstance(other, float):
        return other
    dtype = value.ty.dtype
    number = upper_bound(other, str(dtype).partition("x")[0])
    return number if dtype.lanes == 1 else tirx.Broadcast(number, dtype.lanes)
