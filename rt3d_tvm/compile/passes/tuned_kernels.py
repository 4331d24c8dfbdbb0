"""TunedKernels: a kernel with the tile and the decisions of a tuned record, where there is one.

Before::

    lv = R.call_tir(cls.kgs_conv3d, (x, blocks, offsets, pointers, bias))

After::

    lv = R.call_tir(cls.kgs_conv3d1, (x, blocks1, offsets1, pointers1, bias))

The constants are packed for the record's tile; the schedule reads its decisions from an attribute
of the kernel. What became of a layer is added to the report of KGSConv3d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import tvm
from tvm import relax
from tvm.target import Target

from rt3d_tvm.compile.backends import device_class
from rt3d_tvm.compile.choices.layer import Layer
from rt3d_tvm.compile.choices.records import RecordSet, TunedRecord, find
from rt3d_tvm.compile.choices.space import decided, decisions
from rt3d_tvm.compile.ir.dataflow import known_constant, rewritten
from rt3d_tvm.compile.ir.packed_call import called, emit_call, tunable
from rt3d_tvm.compile.ir.report import layers_of_calls, read_report, weights_digest, with_report
from topi_sparse.kernel_group import KernelGroup


@tvm.transform.module_pass(opt_level=0, name="TunedKernels")
class TunedKernels:
    """Give every kgs_conv3d the choice that the first of ``records`` has for it.

    group: the kernel group that the caller insists on; records of another one are not used.
    """

    def __init__(
        self, target: Target, records: Sequence[RecordSet], group: KernelGroup | None = None
    ) -> None:
        self.target, self.records, self.group = target, records, group

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with its kernels changed, and the report brought up to date."""
        if not any(each.records for each in self.records):
            return mod
        rewriter = _Rewriter(mod, self.target, self.records, self.group)
        changed, layers = rewritten(mod, rewriter), layers_of_calls(mod)
        report = read_report(mod)
        for var, changes in rewriter.changes.items():
            (index,) = layers[var]
            report[index] = replace(report[index], **changes)
        return with_report(changed, report)


def why_not(
    layer: Layer, record: TunedRecord, target: Target, group: KernelGroup | None
) -> str | None:
    """Why a record cannot be used for a kernel, or None where it can."""
    conv, choice = layer.conv, record.choice
    if group is not None and choice.variant.g_m != conv.group.g_m:
        return f"its row blocks are of {choice.variant.g_m} filters, {group.g_m} are asked for"
    if choice.variant.texture and (reason := conv.why_no_texture()):
        return f"it reads the input through a texture: {reason}"
    definition = layer.definition(choice.variant)
    _, known = decisions(definition, target)
    if len(known) != len(choice.decisions) or not all(
        taken in each for taken, each in zip(choice.decisions, known, strict=True)
    ):
        return "its decisions are those of another schedule"
    return None


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Replaces calls one by one; ``changes`` are to the report, by the old call's variable."""

    def __init__(
        self,
        mod: tvm.IRModule,
        target: Target,
        records: Sequence[RecordSet],
        group: KernelGroup | None,
    ) -> None:
        super().__init__(mod)
        self.mod, self.target, self.records, self.group = mod, target, records, group
        self.device = device_class(target)
        self.changes: dict[relax.Var, dict] = {}

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Another kernel where a record asks for it."""
        conv = tunable(called(self.mod, binding.value))
        if conv is None:
            super().visit_var_binding_(binding)
            return
        x, *args = binding.value.args[1].fields
        count = len(conv.constants)
        layer = Layer(conv, tuple(known_constant(arg) for arg in args[:count]))
        found = find(self.records, conv, self.device)
        if found is None or why_not(layer, found[0], self.target, self.group) is not None:
            super().visit_var_binding_(binding)
            return
        record, source = found
        variant = record.choice.variant
        changed, packed = layer.definition(variant), layer.packed(variant)
        self.changes[binding.var] = {
            "weights_digest": weights_digest(changed, packed[0]),
            "group": str(changed.group),
            "tuned": source,
        }
        tensors = [
            self.visit_expr(x),
            *(relax.const(value) for value in packed),
            *(self.visit_expr(arg) for arg in args[count:]),
        ]
        function = decided(changed, record.choice.decisions)
        result = emit_call(self.builder_, conv.name, function, tensors)
        if not isinstance(binding.var, relax.DataflowVar):
            result = self.builder_.emit_output(result)
        self.set_var_remap(binding.var, result)
