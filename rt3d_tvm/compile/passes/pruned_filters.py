"""PrunedFilters: filters that are zero go to the end, and what reads only zeros is dropped.

Before::

    lv = R.nn.conv3d(x, W1)            # filters 1 and 3 of W1 are zero
    lv1 = R.nn.relu(R.add(lv, b1))
    lv2 = R.nn.conv3d(lv1, W2)

After::

    lv = R.nn.conv3d(x, W1[perm])      # perm = 0, 2, 4, ..., 1, 3
    lv1 = R.nn.relu(R.add(lv, b1[perm]))
    lv2 = R.nn.conv3d(lv1, W2[:, perm])  # zero for channels that are zero: b1[1], b1[3] <= 0

Side by side at the end, zero filters fill row blocks of their own, which keep no column, and the
channels that only they write fill channel groups whose columns are not kept either. A channel of
a zero filter is its bias, after the ReLU; where that is not zero, its columns have to stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import (
    bindings,
    constant,
    ints,
    is_op,
    known_constant,
    known_shape,
    rewritten,
    users,
)
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight

# Work is counted in columns of this group: what saves row blocks of 8 filters and groups of 4
# channels saves, if there is enough of it, larger ones.
GROUP = KernelGroup(g_m=8, g_n=4)
# Between the convolution and its readers: what works on each channel by itself.
_CHANNELWISE = ("relax.nn.relu", "relax.nn.max_pool3d", "relax.nn.avg_pool3d")


@tvm.transform.module_pass(opt_level=0, name="PrunedFilters")
class PrunedFilters:
    """Sort the filters of each conv3d that only other conv3d read, where that leaves less work."""

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with sorted weights; a module without zero filters stays as it is."""
        mod = relax.transform.ConvertToDataflow(min_size=1)(mod)
        return rewritten(mod, _Rewriter(mod))


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """A convolution that reads the channels, and what a zero filter's channel holds there.

    bias: all that was added on the way, one value a channel. relu: whether it went through one.
    """

    binding: relax.VarBinding
    bias: np.ndarray
    relu: bool

    @property
    def zero(self) -> np.ndarray:
        """Which channels are zero here if their filter is."""
        return self.bias <= 0 if self.relu else self.bias == 0


@dataclass(frozen=True, kw_only=True)
class _Channels:
    """Where the channels of one convolution go: its additions of a bias, and who reads them."""

    biases: tuple[relax.VarBinding, ...]
    readers: tuple[_Reader, ...]


def _channels_of(
    conv: relax.VarBinding, reads: dict[relax.Var, list[relax.VarBinding | None]]
) -> _Channels | None:
    """Follow a convolution's channels to the convolutions that read them; None elsewhere."""
    out = known_shape(conv.var)
    biases, readers, pending = [], [], [(conv.var, np.zeros(out[1]), False)]
    while pending:
        var, total, relu = pending.pop()
        for reader in reads.get(var, []):
            call = reader.value if reader is not None else None
            if is_op(call, "relax.nn.conv3d") and _is_data_of(call, var):
                readers.append(_Reader(binding=reader, bias=total, relu=relu))
            elif any(is_op(call, name) for name in _CHANNELWISE):
                if _averages_padding(call):  # a channel's value is another at the border
                    return None
                pending.append((reader.var, total, relu or is_op(call, "relax.nn.relu")))
            elif is_op(call, "relax.add") and (bias := _bias(call, out)) is not None:
                if relu:  # what is zero may not stay so
                    return None
                biases.append(reader)
                pending.append((reader.var, total + bias.reshape(-1), relu))
            else:
                return None
    return _Channels(biases=tuple(biases), readers=tuple(readers))


def _averages_padding(call: relax.Call) -> bool:
    return is_op(call, "relax.nn.avg_pool3d") and any(ints(call.attrs.padding))


def _is_data_of(call: relax.Call, var: relax.Var) -> bool:
    """Whether a conv3d without groups and with a constant weight reads ``var`` as its input."""
    weight = constant(call.args[1])
    return call.args[0].same_as(var) and weight is not None and int(call.attrs.groups) == 1


def _bias(call: relax.Call, out: tuple[int, ...]) -> np.ndarray | None:
    """The constant of an addition of one value a channel."""
    for arg in call.args:
        value = constant(arg)
        if value is not None and (1,) * (5 - value.ndim) + value.shape == (1, out[1], 1, 1, 1):
            return value
    return None


def _work(*weights: np.ndarray) -> int:
    """Weights in the kept columns."""
    return sum(
        KGSWeight.from_dense(weight, group=GROUP, chunk=weight.shape[1]).blocks.size
        for weight in weights
    )


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Puts other constants instead of those that the analysis has sorted."""

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Sort what can be sorted in one function, and put it back into the module."""
        reads = users(function)
        self.sorted: dict[relax.Var, np.ndarray] = {}
        for binding in bindings(function):
            call = binding.value
            if is_op(call, "relax.nn.conv3d") and constant(call.args[1]) is not None:
                channels = _channels_of(binding, reads)
                if channels is not None and channels.readers:
                    self.sort(binding, channels)
        self.builder_.update_func(name, self.visit_expr(function))

    def weight(self, conv: relax.VarBinding) -> np.ndarray:
        """The constant weight of a convolution as it is by now."""
        if conv.var in self.sorted:
            return self.sorted[conv.var]
        return known_constant(conv.value.args[1])

    def sort(self, conv: relax.VarBinding, channels: _Channels) -> None:
        """Sort one convolution's filters if they and their readers have less work then."""
        weight, out = self.weight(conv), known_shape(conv.var)
        pruned = ~weight.any(axis=(1, 2, 3, 4))
        if int(conv.value.attrs.groups) > 1 or not pruned.any():
            return
        order = np.argsort(pruned, kind="stable")
        biases = {b.var: _bias(b.value, out) for b in channels.biases}
        before = {r.binding.var: self.weight(r.binding) for r in channels.readers}
        after = {}
        for reader in channels.readers:
            zero = (pruned & reader.zero)[:, None, None, None]
            value = np.where(zero, weight.dtype.type(0), before[reader.binding.var])
            after[reader.binding.var] = value[:, order]
        if _work(weight[order], *after.values()) < _work(weight, *before.values()):
            self.sorted[conv.var] = weight[order]
            self.sorted.update(after)
            for var, bias in biases.items():
                axis = bias.shape.index(len(order)) if len(order) > 1 else 0
                self.sorted[var] = np.take(bias, order, axis=axis)

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """The same call with the sorted constant."""
        if binding.var in self.sorted:
            call = binding.value
            value = relax.const(np.ascontiguousarray(self.sorted[binding.var]))
            args = list(call.args)
            is_conv = is_op(call, "relax.nn.conv3d")
            args[1 if is_conv or constant(args[0]) is None else 0] = value
            binding = relax.VarBinding(
                binding.var, relax.Call(call.op, args, call.attrs, call.ty_args)
            )
        super().visit_var_binding_(binding)
