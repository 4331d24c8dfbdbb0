"""exp, sigmoid, tanh and erf of a kernel as a CPU computes them: polynomials of whole vectors.

Before::

    y[i] = T.sigmoid(x[i])

After::

    y[i] = 1 / (1 + exp(-x[i])), where for a vector v
        z = v * log2(e) + 1.5 * 2**23          # rounded to a whole number n, in the last bits of z
        r = v - n * ln 2                       # at most ln 2 / 2 from 0
        exp(v) = (1 + r + ... c6 * r**6) * 2**n

Left alone, LLVM calls the C library once for every lane. In float32 the results are, from those in
float64: exp within 3e-7 of its value, 0 below exp(-87), infinite where float32 is; sigmoid within
3e-7 of its value; tanh within 4e-7 and erf within 5e-7 of 1. A NaN stays one. float16 is computed
in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tvm
import tvm_ffi
from tvm import tirx

# e**r for |r| <= ln 2 / 2 (minimax of the relative error, 3e-9), from r**0 on.
EXP = (
    1.0,
    1.0,
    0.49999993,
    0.1666652,
    0.04166839,
    0.00836875,
    0.00138145,
)
# ln 2 in two parts: n times the first one has no digits that float32 drops.
LN2_HIGH, LN2_LOW = 0.693359375, math.log(2) - 0.693359375
# float32 has steps of 1 from here on, and n in its last bits.
WHOLE = 12582912.0
# Below the first one exp is 0, above the second one infinite.
EXP_RANGE = (-87.33, 89.0)
# Abramowitz and Stegun, 7.1.26: 1 - erf(x) = t (a1 + a2 t + ...) e**(-x*x), t = 1 / (1 + p x).
ERF_P = 0.3275911
ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def by_polynomials(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The same function with every such call on float32 or float16 written out."""
    return func.with_body(tvm_ffi.structural_map(func.body, (tvm.ir.Call, _written)))


def _written(call: tvm.ir.Call) -> tirx.PrimExpr:
    function = FUNCTIONS.get(getattr(call.op, "name", ""))
    element, lanes = _type(call)
    if function is None or element not in ("float32", "float16"):
        return call
    (value,) = call.args
    if element == "float32":
        return function(value)
    wide = "float32" if lanes == 1 else f"float32x{lanes}"
    return tirx.Cast(str(call.ty.dtype), function(tirx.Cast(wide, value)))


def _exp(value: tirx.PrimExpr) -> tirx.PrimExpr:
    low, high = (_like(value, bound) for bound in EXP_RANGE)
    lanes = value.ty.dtype.lanes
    integer = "int32" if lanes == 1 else f"int32x{lanes}"

    def clamped(v):
        inside = tirx.Select(v < low, low, tirx.Select(high < v, high, v))
        return _let(inside, parts)

    def parts(v):
        whole = v * _like(v, math.log2(math.e)) + _like(v, WHOLE)
        return _let(whole, lambda z: scaled(v, z))

    def scaled(v, z):
        n = z - _like(v, WHOLE)
        rest = (v - n * _like(v, LN2_HIGH)) - n * _like(v, LN2_LOW)
        bits = tirx.shift_left(tirx.reinterpret(integer, z), _whole(lanes, 23))
        # 2**(n - 1): 2**n may be infinite where the product is not.
        power = tirx.reinterpret(str(v.ty.dtype), bits + _whole(lanes, 126 << 23))
        return _let(rest, lambda r: _polynomial(EXP, r) * power * _like(v, 2.0))

    return _let(value, clamped)


def _sigmoid(value: tirx.PrimExpr) -> tirx.PrimExpr:
    one = _like(value, 1.0)
    return one / (one + _exp(_like(value, 0.0) - value))


def _tanh(value: tirx.PrimExpr) -> tirx.PrimExpr:
    one, two = _like(value, 1.0), _like(value, 2.0)
    return one - two / (one + _exp(value * two))


def _erf(value: tirx.PrimExpr) -> tirx.PrimExpr:
    zero, one = _like(value, 0.0), _like(value, 1.0)

    def signed(v, a):
        def tail(t):
            return one - t * _polynomial(ERF, t) * _exp((zero - a) * a)

        t = one / (one + a * _like(v, ERF_P))
        return _let(_let(t, tail), lambda y: tirx.Select(v < zero, zero - y, y))

    return _let(value, lambda v: _let(tirx.Select(v < zero, zero - v, v), lambda a: signed(v, a)))


def _polynomial(coefficients: tuple[float, ...], x: tirx.PrimExpr) -> tirx.PrimExpr:
    """The sum of coefficients times powers of x, by Horner's rule."""
    total = _like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + _like(x, coefficient)
    return total


def _let(value: tirx.PrimExpr, body: Callable) -> tirx.PrimExpr:
    """``body`` of the value, which is computed once."""
    var = tirx.Var("v", str(value.ty.dtype))
    return tirx.Let(var, value, body(var))


def _type(expr: tirx.PrimExpr) -> tuple[str, int]:
    """The element type and the number of lanes."""
    dtype = getattr(getattr(expr, "ty", None), "dtype", None)
    return ("", 0) if dtype is None else (str(dtype).partition("x")[0], dtype.lanes)


def _like(node: tirx.PrimExpr, value: float) -> tirx.PrimExpr:
    """A constant in every lane of the node's type."""
    number, lanes = tirx.const(value, _type(node)[0]), node.ty.dtype.lanes
    return number if lanes == 1 else tirx.Broadcast(number, lanes)


def _whole(lanes: int, value: int) -> tirx.PrimExpr:
    number = tirx.const(value, "int32")
    return number if lanes == 1 else tirx.Broadcast(number, lanes)


# A call's name -> what computes it.
FUNCTIONS: dict[str, Callable[[tirx.PrimExpr], tirx.PrimExpr]] = {
    "tirx.exp": _exp,
    "tirx.sigmoid": _sigmoid,
    "tirx.tanh": _tanh,
    "tirx.erf": _erf,
}
