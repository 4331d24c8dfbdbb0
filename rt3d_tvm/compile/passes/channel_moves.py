"""ChannelMoves: splits and channel shuffles -> operators that have a packed form.

Before::

    lv = R.split(x, 2, axis=1)
    lv1 = lv[0]
    lv2 = R.reshape(y, (B, 2, C / 2, D, H, W))
    lv3 = R.permute_dims(lv2, (0, 2, 1, 3, 4, 5))
    lv4 = R.reshape(lv3, (B, C, D, H, W))

After::

    lv1 = R.strided_slice(x, (1,), (0,), (C / 2,))
    lv4 = R.take(y, const, axis=1)     # channels 0, C / 2, 1, C / 2 + 1 ...
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import bindings, is_op, known_shape, rewritten, static_shape

# The two axes that the channels are split into change places.
_AXES = [0, 2, 1, 3, 4, 5]


@tvm.transform.module_pass(opt_level=0, name="ChannelMoves")
class ChannelMoves:
    """Rewrite every part of a split, and every shuffle of the channels of clips."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with operators that KeepPacked knows."""
        return relax.transform.DeadCodeElimination()(rewritten(mod, _Rewriter(mod)))


def shuffled_by(groups: int, channels: int) -> np.ndarray:
    """Which channel each channel of a shuffle is."""
    return np.arange(channels).reshape(groups, -1).T.ravel()


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.bound = {binding.var: binding.value for binding in bindings(function)}
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_tuple_getitem_(self, item: relax.TupleGetItem) -> relax.Expr:
        """A slice in place of a part of a split."""
        split = self.bound.get(item.tuple_value)
        shape = None if split is None or not is_op(split, "relax.split") else static_shape(item)
        if shape is None:
            return super().visit_tuple_getitem_(item)
        axis = int(split.attrs.axis) % len(shape)
        parts = [part.shape[axis] for part in split.ty.fields]
        begin = sum(int(part) for part in parts[: item.index])
        end = begin + int(parts[item.index])
        return relax.op.strided_slice(self.visit_expr(split.args[0]), [axis], [begin], [end])

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A take in place of the last reshape of a shuffle."""
        source = self.shuffle(call)
        if source is None:
            return super().visit_call_(call)
        x, groups = source
        index = shuffled_by(groups, known_shape(x)[1])
        return relax.op.take(
            self.visit_expr(x), relax.const(index.astype("int64")), axis=1, mode="clip"
        )

    def shuffle(self, call: relax.Call) -> tuple[relax.Expr, int] | None:
        """What a call is a shuffle of, and in how many groups; None where it is none."""
        moved = self.bound.get(call.args[0]) if is_op(call, "relax.reshape") else None
        if moved is None or not is_op(moved, "relax.permute_dims") or moved.attrs.axes is None:
            return None
        split = self.bound.get(moved.args[0])
        if split is None or not is_op(split, "relax.reshape"):
            return None
        x, wide = split.args[0], static_shape(split)
        shape = static_shape(x)
        if [int(axis) for axis in moved.attrs.axes] != _AXES or shape is None or wide is None:
            return None
        is_split = len(shape) == 5 and wide == (shape[0], wide[1], shape[1] // wide[1], *shape[2:])
        return (x, wide[1]) if is_split and static_shape(call) == shape else None
