"""Loop nests of operators for which TVM's own do not serve.

- Quantisation of plain tensors rounds to even, as ONNX does.
- TopK and running sums take n steps for each of n elements. TVM's call a library that its runtime
  for devices does not have and, on a GPU, are launched from loops on the host.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax, te, tirx

from rt3d_tvm.compile.ir.dataflow import dtype_of, known_shape, scale_and_zero
from rt3d_tvm.errors import InputError
from topi_sparse.packed import dequantized, quantized

# Elements of an axis, each of which takes as many steps.
MOST = 1 << 14


def _quantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return _elementwise(
        builder, call, lambda value, **numbers: quantized(value, dtype=dtype_of(call), **numbers)
    )


def _dequantize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return _elementwise(builder, call, dequantized)


def _elementwise(builder: relax.BlockBuilder, call: relax.Call, function: Callable) -> relax.Expr:
    """``function`` of each element, with the scale and zero point of the call."""
    numbers = scale_and_zero(call)
    if numbers is None:
        return call
    scale, zero = numbers

    def nest(x):
        return te.compute(x.shape, lambda *i: function(x(*i), scale=scale, zero=zero), "element")

    name = call.op.name.rsplit(".", 1)[-1]
    return builder.call_te(nest, call.args[0], primfunc_name_hint=name)


def _topk(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """The place of each element is how many come before it; equal ones stay in order."""
    shape, axis = _axis_of(call, "TopK")
    attrs, size = call.attrs, shape[axis]
    k = size if int(attrs.k) < 1 else min(int(attrs.k), size)
    of_type = str(attrs.dtype) or "int32"

    def moved(index: tuple, place):
        return (*index[:axis], place, *index[axis + 1 :])

    def nest(x):
        def is_before(a, b, *, earlier):
            """NaN is the largest, as for PyTorch."""
            first, second = (a, b) if attrs.largest else (b, a)
            no_a, no_b = tirx.isnan(first), tirx.isnan(second)
            larger = tirx.any(first > second, tirx.all(no_a, tirx.Not(no_b)))
            equal = tirx.any(first == second, tirx.all(no_a, no_b))
            return tirx.any(larger, tirx.all(equal, earlier))

        def rank_of(*index):
            j = te.reduce_axis((0, size), "j")
            here, other = x(*index), x(*moved(index, j.var))
            before = is_before(other, here, earlier=j.var < index[axis])
            return te.sum(before.astype("int32"), axis=j)

        rank = te.compute(shape, rank_of, "rank")
        out = moved(shape, k)

        def index_of(*index):
            i = te.reduce_axis((0, size), "i")
            found = rank(*moved(index, i.var)) == index[axis]
            return te.sum(tirx.Select(found, i.var.astype("int32"), tirx.const(0)), axis=i)

        places = te.compute(out, index_of, "places")
        values = te.compute(out, lambda *index: x(*moved(index, places(*index))), "values")
        indices = te.compute(out, lambda *index: places(*index).astype(of_type), "indices")
        return {"both": [values, indices], "values": values, "indices": indices}[attrs.ret_type]

    return builder.call_te(nest, call.args[0], primfunc_name_hint="topk")


def _running(combined: Callable, name: str) -> Callable:
    """All elements up to each, ``combined``."""

    def legalized(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        shape, axis = _axis_of(call, name)
        of_type, ends_before = dtype_of(call), int(bool(call.attrs.exclusive))
        neutral = tirx.const(1 if combined is PRODUCT else 0, of_type)

        def nest(x):
            def total(*index):
                j = te.reduce_axis((0, shape[axis]), "j")
                element = x(*index[:axis], j.var, *index[axis + 1 :]).astype(of_type)
                counts = j.var + ends_before <= index[axis]
                return combined(tirx.Select(counts, element, neutral), axis=j)

            return te.compute(shape, total, name.lower())

        return builder.call_te(nest, call.args[0], primfunc_name_hint=name.lower())

    return legalized


def _axis_of(call: relax.Call, name: str) -> tuple[tuple[int, ...], int]:
    shape = known_shape(call.args[0])
    axis = int(call.attrs.axis) % len(shape)
    if shape[axis] > MOST:
        raise InputError(f"{name} along an axis of {shape[axis]}: at most {MOST} are accepted")
    return shape, axis


PRODUCT = te.comm_reducer(lambda a, b: a * b, lambda dtype: tirx.const(1, dtype), name="product")
# What LegalizeOps takes in place of its own.
LOOPS = {
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
    "relax.topk": _topk,
    "relax.cumsum": _running(te.sum, "CumSum"),
    "relax.cumprod": _running(PRODUCT, "CumProd"),
}
