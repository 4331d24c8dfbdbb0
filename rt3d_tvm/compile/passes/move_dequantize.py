"""MoveDequantize: what only moves values, or takes the largest of them, works on 8-bit values.

Before::

    lv = R.dequantize(xq, scale, zero)
    lv1 = R.nn.max_pool3d(lv, ...)
    yq = R.quantize(lv1, scale, zero)

After::

    yq = R.nn.max_pool3d(xq, ...)

An operator moves before the dequantisation; a quantisation to what a value was dequantised from is
that value. Both are exact: (q - zero) * scale rises with q.

A mean that is quantised is taken of whole numbers, q - zero, whose sums are exact: where the exact
mean lies between two steps it is rounded to the even one, not by what a sum of reals has lost.
"""

from __future__ import annotations

import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import (
    EIGHT_BIT,
    bindings,
    constant,
    dtype_of,
    is_op,
    rewritten,
    scale_and_zero,
)

MOVED = (
    *("relax.nn.max_pool1d", "relax.nn.max_pool2d", "relax.nn.max_pool3d"),
    *("relax.reshape", "relax.permute_dims", "relax.squeeze", "relax.expand_dims"),
    "relax.concat",
)
MEANS = (*(f"relax.nn.avg_pool{n}d" for n in (1, 2, 3)), "relax.mean")


@tvm.transform.module_pass(opt_level=0, name="MoveDequantize")
class MoveDequantize:
    """Rewrite until no operator is left before which a dequantisation stands in vain."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with its pools and views on 8-bit values."""
        if not any(is_op(binding.value, "relax.dequantize") for binding in bindings(mod["main"])):
            return mod
        mod = relax.transform.CanonicalizeBindings()(rewritten(mod, _Rewriter(mod)))
        return relax.transform.DeadCodeElimination()(mod)


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """The moved operator, the value itself, or what it was."""
        new = super().visit_call_(call)
        results = (self._moved(new), self._given_back(new), self._of_whole_numbers(new))
        return next((result for result in results if result is not None), new)

    def _source(self, expr: relax.Expr) -> relax.Call | None:
        """The dequantisation that a value is of, or None."""
        call = expr
        while isinstance(call, relax.Var):
            call = self.lookup_binding(call)
        if call is None or not is_op(call, "relax.dequantize"):
            return None
        is_stored = isinstance(call.args[0], relax.Var) and dtype_of(call.args[0]) in EIGHT_BIT
        return call if is_stored else None

    def _moved(self, call: relax.Call) -> relax.Call | None:
        """The dequantisation of the operator on what its tensors were dequantised from."""
        if not any(is_op(call, name) for name in MOVED):
            return None
        (first, *others) = call.args
        parts = list(first.fields) if isinstance(first, relax.Tuple) else [first]
        sources = [self._source(part) for part in parts]
        if any(source is None for source in sources) or any(
            not _same(sources[0], source) for source in sources
        ):
            return None
        stored = [source.args[0] for source in sources]
        x = relax.Tuple(stored) if isinstance(first, relax.Tuple) else stored[0]
        moved = self.builder_.emit(relax.Call(call.op, [x, *others], call.attrs))
        return relax.op.dequantize(moved, *sources[0].args[1:], axis=-1)

    def _given_back(self, call: relax.Call) -> relax.Var | None:
        """What a quantised value was dequantised from, where that is the same."""
        if not is_op(call, "relax.quantize"):
            return None
        source = self._source(call.args[0])
        same = source is not None and _same(source, call)
        return source.args[0] if same and dtype_of(source.args[0]) == dtype_of(call) else None

    def _of_whole_numbers(self, call: relax.Call) -> relax.Call | None:
        """The quantised mean of whole numbers, whose steps the quantisation takes over."""
        if not is_op(call, "relax.quantize"):
            return None
        mean = self.lookup_binding(call.args[0]) if isinstance(call.args[0], relax.Var) else None
        if mean is None or not any(is_op(mean, name) for name in MEANS):
            return None
        source = self._source(mean.args[0])
        if source is None or constant(source.args[1]) is None or constant(call.args[1]) is None:
            return None
        step, steps = (constant(each.args[1]).astype("float32") for each in (source, call))
        if step.size != 1 or steps.size != 1 or step == 1:
            return None
        x, _, zero = source.args
        whole = self.builder_.emit(relax.op.dequantize(x, relax.const(1.0), zero, axis=-1))
        mean = self.builder_.emit(relax.Call(mean.op, [whole, *mean.args[1:]], mean.attrs))
        ratio = relax.const((steps / step).reshape(()))
        return relax.op.quantize(mean, ratio, call.args[2], axis=-1, out_dtype=dtype_of(call))


def _same(one: relax.Call, other: relax.Call) -> bool:
    """Whether two calls have the same scale and zero point, one number each."""
    numbers = scale_and_zero(one)
    return numbers is not None and numbers == scale_and_zero(other)
