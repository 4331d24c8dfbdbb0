"""Conv2Plus1D: a convolution over H and W and the one along D that reads it -> one kernel.

Before::

    lv = R.call_tir(cls.kgs_conv3d, (x, blocks, offsets, pointers, bias))
    lv1 = R.call_tir(cls.kgs_conv3d1, (lv, blocks1, offsets1, pointers1, bias1, shortcut))

After::

    lv = R.call_tir(
        cls.kgs_conv2plus1d,
        (x, blocks, offsets, pointers, bias, blocks1, offsets2, pointers1, bias1, shortcut),
    )

where nothing else reads what lies between, and the pair gains by it; it is never stored whole then.
The same of quantized_kgs_conv3d.
"""

from __future__ import annotations

from dataclasses import replace

import tvm
from tvm import relax
from tvm.target import Target

from rt3d_tvm.compile.ir.dataflow import bindings, constant, only_reader, rewritten, users
from rt3d_tvm.compile.ir.packed_call import called, emit_call, packed_kernel
from rt3d_tvm.compile.ir.report import layers_of_calls, read_report, with_report
from topi_sparse.cpu.kgs_conv2plus1d import (
    KGSConv2Plus1D,
    why_not_paired,
    why_not_worth,
)
from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.cpu.quantized_kgs_conv3d import QuantizedKGSConv3d

# Kinds of convolutions that there is a kernel of pairs for.
_PAIRED = (KGSConv3d, QuantizedKGSConv3d)


@tvm.transform.module_pass(opt_level=0, name="Conv2Plus1D")
class Conv2Plus1D:
    """Fuse the pairs of convolutions that gain by it on a CPU ``target``."""

    def __init__(self, target: Target) -> None:
        self.threads = int(target.attrs.get("num-cores", 1))

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with its pairs in one kernel each, which the report names."""
        rewriter = _Rewriter(mod, self.threads)
        changed, layers = rewritten(mod, rewriter), layers_of_calls(mod)
        report = read_report(mod)
        for var in rewriter.paired:
            for index in layers[var]:
                report[index] = replace(report[index], kernel=KGSConv2Plus1D.name)
        return with_report(changed, report)


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Emits a pair at its second call; ``paired``: the variables of the calls that are in one."""

    def __init__(self, mod: tvm.IRModule, threads: int) -> None:
        super().__init__(mod)
        self.mod, self.threads = mod, threads
        self.paired: set[relax.Var] = set()

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        reads = users(function)
        self.pair_at: dict[relax.Var, tuple[relax.VarBinding, KGSConv2Plus1D]] = {}
        for binding in bindings(function):
            reader = only_reader(binding.var, reads)
            pair = None if reader is None else self.pair(binding, reader)
            if pair is not None:
                self.pair_at[reader.var] = (binding, pair)
        self.dropped = {first.var for first, _ in self.pair_at.values()}
        self.paired |= {*self.pair_at, *self.dropped}
        self.builder_.update_func(name, self.visit_expr(function))

    def pair(self, first: relax.VarBinding, second: relax.VarBinding) -> KGSConv2Plus1D | None:
        """What the two bindings come to, or None where they stay apart."""
        spatial, temporal = (self.direct(binding.value) for binding in (first, second))
        # As the input: not as what is added.
        if spatial is None or temporal is None or not first.var.same_as(self.tensors(second)[0]):
            return None
        if why_not_paired(spatial, temporal) is not None:
            return None
        pair = KGSConv2Plus1D(spatial=spatial, temporal=temporal)
        return pair if why_not_worth(pair, self.threads) is None else None

    def direct(self, call: relax.Expr) -> KGSConv3d | None:
        """The definition of a called kgs_conv3d, on 8-bit tensors too, or None."""
        func = called(self.mod, call)
        kernel = None if func is None else packed_kernel(func)
        definition = None if kernel is None else kernel[1]
        if isinstance(definition, KGSConv3d) and type(definition) in _PAIRED:
            return definition
        return None

    @staticmethod
    def tensors(binding: relax.VarBinding) -> list[relax.Expr]:
        """What a call_tir is given."""
        return list(binding.value.args[1].fields)

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Nothing for the first of a pair, both for the second."""
        if binding.var in self.dropped:
            return
        if binding.var not in self.pair_at:
            super().visit_var_binding_(binding)
            return
        first, pair = self.pair_at[binding.var]
        of_first, (_, *of_second) = self.tensors(first), self.tensors(binding)
        offsets, pointers = (constant(arg) for arg in of_second[1:3])
        columns = pair.temporal.columns(offsets, pointers)
        of_second[1] = relax.const(pair.from_band.offsets(columns))
        args = [self.visit_expr(arg) for arg in (*of_first, *of_second)]
        result = emit_call(self.builder_, pair.name, pair.prim_func(), args)
        if not isinstance(binding.var, relax.DataflowVar):
            result = self.builder_.emit_output(result)
        self.set_var_remap(binding.var, result)
