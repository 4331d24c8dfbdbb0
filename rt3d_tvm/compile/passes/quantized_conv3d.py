"""QuantizedConv3d: convolutions between DequantizeLinear and QuantizeLinear, computed in 8 bit.

Before::

    lv = R.dequantize(xq, scale, zero)
    lv1 = R.dequantize(const, scales, zeros, axis=0)       # int8 weights
    lv2 = R.nn.conv3d(lv, lv1, ...)                        # or conv2d, or a matmul of matrices
    lv3 = R.add(lv2, const)                                # bias, if there
    lv4 = R.nn.relu(lv3)                                   # if there
    yq = R.quantize(lv4, scale, zero)                      # without it the result is float32

After::

    lv = R.call_tir(cls.pack, (xq,))
    lv1 = R.call_tir(cls.quantized_kgs_conv3d, (lv, blocks, offsets, pointers, bias, scale))
    yq = R.call_tir(cls.unpack, (lv1,))

or quantized_depthwise_conv3d, where each filter has a channel to itself.

A residual may follow: dequantize, add of another dequantized value, ReLU, quantize. All 8-bit
values of the module become the type that the target's instructions take (uint8, or int8), their
zero points with them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import tvm
from tvm import relax
from tvm.target import Target

from rt3d_tvm.compile.backends import backend_of
from rt3d_tvm.compile.ir.dataflow import (
    bindings,
    follows_from_inputs,
    is_op,
    rewritten,
    static_shape,
    users,
)
from rt3d_tvm.compile.ir.packed_call import emit_pack, emit_unpack
from rt3d_tvm.compile.ir.quantized_chain import (
    TRANSPOSED_CONVOLUTIONS,
    QuantizedChain,
    QuantizedChains,
    conv_groups,
)
from rt3d_tvm.compile.ir.report import ConvReport, weights_digest
from rt3d_tvm.compile.kernels.kernel import Kernel
from rt3d_tvm.compile.kernels.quantized import quantized, why_not_quantized
from rt3d_tvm.compile.passes.stored_type import with_stored_type
from topi_sparse.kernel_group import KernelGroup

# The module attribute for what CompactConv3d reports: an entry for each layer; where it is not
# computed in 8 bit, the reason, or null.
QUANTIZED_ATTRIBUTE = "quantized_layers"


@tvm.transform.module_pass(opt_level=0, name="QuantizedConv3d")
class QuantizedConv3d:
    """Rewrite every convolution and fully connected layer between 8-bit tensors.

    target: whose instructions decide the kernel; group: the kernel group for all, or None.
    """

    def __init__(self, target: Target, group: KernelGroup | None = None) -> None:
        self.unit, self.group = backend_of(target).dot_unit(target), group

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with its quantised layers as kernels; as it is where it has none."""
        if self.unit is None:
            return mod
        mod = relax.transform.ConvertToDataflow(min_size=1)(mod)
        mod = with_stored_type(mod, self.unit.stored)
        # DequantizeLinear stands before each reader of a value.
        mod = relax.transform.EliminateCommonSubexpr()(mod)
        rewriter = _Rewriter(mod, self)
        mod = relax.transform.DeadCodeElimination()(rewritten(mod, rewriter))
        entries = [
            asdict(entry) if isinstance(entry, ConvReport) else entry for entry in rewriter.report
        ]
        return mod.with_attr(QUANTIZED_ATTRIBUTE, json.dumps(entries))


def quantized_layers(mod: tvm.IRModule) -> list[ConvReport | str | None]:
    """What the pass wrote, for each layer in the order of the graph.

    An entry of the report, or why the layer is computed in float32, or None where nothing of it is
    quantised.
    """
    entries: Sequence[dict | str | None] = json.loads(
        (mod.attrs or {}).get(QUANTIZED_ATTRIBUTE, "[]")
    )
    return [
        ConvReport(**{**entry, "weight": tuple(entry["weight"]), "out": tuple(entry["out"])})
        if isinstance(entry, dict)
        else entry
        for entry in entries
    ]


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Emits each chain at its last binding, where all it reads is there, and drops the others."""

    def __init__(self, mod: tvm.IRModule, settings: QuantizedConv3d) -> None:
        super().__init__(mod)
        self.settings = settings
        self.report: list[ConvReport | str | None] = []

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        chains, unit = QuantizedChains(function, users(function)), self.settings.unit
        self.kernel_at: dict[relax.Var, tuple[QuantizedChain, Kernel]] = {}
        self.dropped: set[relax.Var] = set()
        known = follows_from_inputs(function)
        for binding in bindings(function):
            if binding.var not in known:
                continue  # a layer of constants, which FoldConstant computes
            if any(is_op(binding.value, name) for name in TRANSPOSED_CONVOLUTIONS):
                self.report.append(None)
                continue
            if not chains.is_layer(binding.value):
                continue
            chain = chains.chain_from(binding)
            reason = chains.why_real(binding) if chain is None else None
            if chain is not None:
                reason = why_not_quantized(chain.convolution)
            if chain is None or reason is not None:
                self.report.append(reason)
                continue
            chains.claim(chain)
            kernel = quantized(chain.convolution, unit, self.settings.group)
            self.kernel_at[chain.bindings[-1].var] = chain, kernel
            self.dropped.update(member.var for member in chain.bindings[:-1])
            self.report.append(_report(chain, kernel))
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """A kernel at the last binding of its chain, nothing at the others."""
        if binding.var in self.kernel_at:
            self.set_var_remap(binding.var, self.emit(*self.kernel_at[binding.var], binding.var))
        elif binding.var not in self.dropped:
            super().visit_var_binding_(binding)

    def emit(self, chain: QuantizedChain, kernel: Kernel, var: relax.Var) -> relax.Var:
        """pack, the kernel's call, unpack."""
        conv, products = chain.convolution, kernel.products
        x = self.packed(chain.x, conv.data, kernel.x, products.dtype)
        residual = None
        if chain.residual is not None:
            residual = self.packed(chain.residual, conv.out, products.residual, products.dtype)
        y = kernel.emit(self.builder_, x, residual)
        plain = emit_unpack(self.builder_, y, conv.out, kernel.y, products.result)
        if static_shape(var) != conv.out:
            plain = self.builder_.emit(relax.op.reshape(plain, static_shape(var)))
        return plain if isinstance(var, relax.DataflowVar) else self.builder_.emit_output(plain)

    def packed(self, var: relax.Var, data: tuple[int, ...], layout, dtype: str) -> relax.Var:
        """An 8-bit value in a kernel's layout."""
        value = self.visit_expr(var)
        if static_shape(var) != data:
            value = self.builder_.emit(relax.op.reshape(value, data))
        return emit_pack(self.builder_, value, layout, dtype)


def _report(chain: QuantizedChain, kernel: Kernel) -> ConvReport:
    conv = chain.convolution
    filters, channels, *window = conv.weight.shape
    # Those that a filter sees; in the weight there are zeros for the others.
    seen = channels if conv.depthwise else channels // conv_groups(chain.bindings[0].value)
    shape = (filters, seen, *window)
    density = np.count_nonzero(conv.weight) / np.prod(shape)
    macs = int(np.prod(conv.out)) * int(np.prod(shape[1:]))
    group = getattr(kernel.products, "group", None)
    return ConvReport(
        weight=shape,
        out=conv.out,
        density=density,
        dense_macs=macs,
        kept_macs=round(macs * density),
        issued_macs=kernel.issued_macs,
        kernel=kernel.name,
        group=str(group) if group else None,
        weights_digest=weights_digest(kernel.products, kernel.pack()),
        dtype=kernel.products.dtype,
        weight_dtype="int8",
    )
