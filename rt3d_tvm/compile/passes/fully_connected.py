"""FullyConnectedAsConv3d: matmul with a constant weight -> conv3d on a single position.

Before::

    lv = R.matmul(x, const)            # (B, K) @ (K, M)
    lv1 = R.add(lv, const)             # (M,), if there
    lv2 = R.sigmoid(lv1)               # and what else is done to single values
    lv3 = R.expand_dims(lv2, axis=[2]) # if there

After::

    lv = R.reshape(x, (B, K, 1, 1, 1))
    lv1 = R.nn.conv3d(lv, const)       # (M, K, 1, 1, 1)
    lv2 = R.add(lv1, const)            # (1, M, 1, 1, 1)
    lv3 = R.sigmoid(lv2)
    lv4 = R.reshape(lv3, (B, M))
    lv5 = R.reshape(lv4, (B, M, 1))

A fully connected layer is a 1x1x1 convolution, so it shares the sparse kernel and its weight
format. The reshapes are views, which end where a product with channels needs (B, M, 1, 1, 1).
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import (
    bindings,
    constant,
    is_op,
    known_constant,
    known_shape,
    only_reader,
    rewritten,
    static_shape,
    users,
)
from rt3d_tvm.compile.ir.elementwise_calls import steps_behind

_OF_AXES = ("relax.expand_dims", "relax.squeeze")


@tvm.transform.module_pass(opt_level=0, name="FullyConnectedAsConv3d")
class FullyConnectedAsConv3d:
    """Rewrite every matmul of a matrix with a constant matrix."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with its fully connected layers as convolutions."""
        mod = relax.transform.ConvertToDataflow(min_size=1)(mod)
        return rewritten(mod, _Rewriter(mod))


def why_not(call: relax.Call) -> str | None:
    """Why this matmul cannot become a conv3d, or None where it can."""
    weight, shape = constant(call.args[1]), static_shape(call.args[0])
    if weight is None:
        return "its weight is not a constant"
    if shape is None or len(shape) != 2 or weight.ndim != 2:
        return f"it multiplies {call.args[0].ty} with {call.args[1].ty}, not two matrices"
    return None


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Emits each layer at the last binding it takes in, and drops the others."""

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        reads = users(function)
        self.layer_at: dict[relax.Var, list[relax.VarBinding]] = {}
        self.dropped: set[relax.Var] = set()
        for binding in bindings(function):
            if is_op(binding.value, "relax.matmul") and why_not(binding.value) is None:
                layer, width = [binding], known_shape(binding.var)[1]
                while (reader := only_reader(layer[-1].var, reads)) and _is_fused(
                    reader.value, width
                ):
                    layer.append(reader)
                layer += steps_behind(layer[-1].var, reads, set())[1]
                self.layer_at[layer[-1].var] = layer
                self.dropped.update(member.var for member in layer[:-1])
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        if binding.var in self.layer_at:
            emit = self.builder_.emit
            if not isinstance(binding.var, relax.DataflowVar):
                emit = self.builder_.emit_output
            self.set_var_remap(binding.var, emit(self.layer(*self.layer_at[binding.var])))
        elif binding.var not in self.dropped:
            super().visit_var_binding_(binding)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """The same call; axes of one that come or go are views."""
        new, shape = super().visit_call_(call), static_shape(call)
        if any(is_op(new, name) for name in _OF_AXES) and shape is not None:
            return relax.op.reshape(new.args[0], shape)
        return new

    def layer(self, matmul: relax.VarBinding, *behind: relax.VarBinding) -> relax.Call:
        """The reshape that ends the layer; all before it is emitted."""
        batch, k = known_shape(matmul.value.args[0])
        weight = known_constant(matmul.value.args[1])
        x = self.builder_.emit(
            relax.op.reshape(self.visit_expr(matmul.value.args[0]), (batch, k, 1, 1, 1))
        )
        kernel = np.ascontiguousarray(weight.T).reshape(-1, k, 1, 1, 1)
        made = {matmul.var: self.builder_.emit(relax.op.nn.conv3d(x, relax.const(kernel)))}
        for binding in behind:
            call = binding.value
            args = [made[arg] if arg in made else _by_channel(arg) for arg in call.args]
            made[binding.var] = self.builder_.emit(relax.Call(call.op, args, call.attrs))
        last = made[behind[-1].var] if behind else made[matmul.var]
        return relax.op.reshape(last, (batch, weight.shape[1]))


def _by_channel(arg: relax.Expr) -> relax.Expr:
    """A bias of (M,) or (1, M) as one of channels; anything else as it is."""
    value = constant(arg)
    if value is None or value.ndim == 0:
        return arg
    return relax.const(value.reshape(1, -1, 1, 1, 1))


def _is_fused(call: relax.Expr, width: int) -> bool:
    """A bias of one value for each of the ``width`` outputs, or a ReLU."""
    if is_op(call, "relax.add"):
        biases = [value for value in map(constant, call.args) if value is not None]
        return len(biases) == 1 and biases[0].shape in ((width,), (1, width))
    return is_op(call, "relax.nn.relu")
