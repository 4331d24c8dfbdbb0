"""GroupNorms: a normalisation over groups of channels -> group_norm on packed activations.

Before::

    lv = R.mean(x, axis=[2, 3, 4], keepdims=True)
    ...                                # the other operators of rt3d_tvm.compile.ir.norm_chain
    lv7 = R.add(lv6, shift)
    lv8 = R.nn.relu(lv7)               # and what else a kernel does to its results, if there

After::

    lv = R.call_tir(cls.pack, (x,))
    lv1 = R.call_tir(cls.group_norm, (lv, scale, shift))
    lv2 = R.call_tir(cls.unpack, (lv1,))

Layout changes between this and other kernels are left for KeepPacked. On a GPU the operators stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import relax
from tvm.target import Target

from rt3d_tvm.compile.backends import backend_of
from rt3d_tvm.compile.ir.conv_chain import ConvChain, chain_from
from rt3d_tvm.compile.ir.dataflow import bindings, dtype_of, known_shape, rewritten, users
from rt3d_tvm.compile.ir.norm_chain import NormChain, norm_from
from rt3d_tvm.compile.ir.packed_call import emit_call, emit_pack, emit_unpack
from rt3d_tvm.compile.kernels.kernel import padded_bias
from topi_sparse.cpu.group_norm import GroupNorm
from topi_sparse.layout import PackedLayout


@tvm.transform.module_pass(opt_level=0, name="GroupNorms")
class GroupNorms:
    """Rewrite every normalisation of a clip over groups of its channels, on a CPU ``target``.

    dtype: what packed values are stored in, float32 or float16.
    """

    def __init__(self, target: Target, dtype: str = "float32") -> None:
        self.applies, self.dtype = not backend_of(target).on_gpu, dtype
        self.c_block = backend_of(target).unit(target, dtype, dtype).lanes if self.applies else 0

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with its normalisations in one kernel each."""
        if not self.applies:
            return mod
        mod = relax.transform.ConvertToDataflow(min_size=1)(mod)
        return rewritten(mod, _Rewriter(mod, self.c_block, self.dtype))


@dataclass(frozen=True, kw_only=True)
class _Found:
    norm: NormChain
    behind: ConvChain


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Emits each kernel at the last binding of what it stands for, and drops the others."""

    def __init__(self, mod: tvm.IRModule, c_block: int, dtype: str) -> None:
        super().__init__(mod)
        self.c_block, self.dtype = c_block, dtype

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        reads, listed = users(function), bindings(function)
        binding_of = {binding.var: binding for binding in listed}
        self.found: dict[relax.Var, _Found] = {}
        self.dropped: set[relax.Var] = set()
        claimed: set[relax.Var] = set()
        for binding in listed:
            norm = norm_from(binding, reads, binding_of)
            if norm is None:
                continue
            behind = chain_from(norm.bindings[-1], reads, claimed)
            members = [each.var for each in (*norm.bindings, *behind.bindings[1:])]
            claimed.update(members)
            self.found[members[-1]] = _Found(norm=norm, behind=behind)
            self.dropped.update(members[:-1])
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """A kernel at the last binding of its chain, nothing at the others."""
        if binding.var in self.found:
            result = self.emit(self.found[binding.var])
            if not isinstance(binding.var, relax.DataflowVar):
                result = self.builder_.emit_output(result)
            self.set_var_remap(binding.var, result)
        elif binding.var not in self.dropped:
            super().visit_var_binding_(binding)

    def emit(self, found: _Found) -> relax.Var:
        """pack, the kernel, unpack."""
        norm, behind = found.norm, found.behind
        data, layout = known_shape(norm.x), PackedLayout(c_block=self.c_block)
        definition = GroupNorm(
            data=data,
            groups=norm.groups,
            epsilon=norm.epsilon,
            x=layout,
            y=layout,
            residual=layout if behind.residual is not None else None,
            relu=behind.relu,
            ceiling=behind.ceiling,
            steps=behind.steps,
            dtype=self.dtype,
        )
        shift = norm.shift if behind.bias is None else norm.shift + behind.bias
        args = [
            emit_pack(self.builder_, self.visit_expr(norm.x), layout, self.dtype),
            *(
                padded_bias(values, data[1], definition.stored_channels)
                for values in (norm.scale, shift)
            ),
        ]
        if behind.residual is not None:
            residual = self.visit_expr(behind.residual)
            args.append(emit_pack(self.builder_, residual, layout, self.dtype))
        y = emit_call(self.builder_, definition.name, definition.prim_func(), args)
        return emit_unpack(self.builder_, y, data, layout, dtype_of(norm.x))
