"""CompactConv3d: conv3d with a constant weight -> kgs_conv3d on packed activations.

Before::

    lv = R.nn.conv3d(x, const, padding=[1, 1, 1, 1, 1, 1], ...)
    lv1 = R.add(lv, const)             # bias, if there
    lv2 = R.add(lv1, shortcut)         # residual, if there
    lv3 = R.nn.relu(lv2)               # if there
    lv4 = R.minimum(lv3, const)        # a scalar, if there
    lv5 = R.sigmoid(lv4)               # and what else is done to single values

After::

    lv = R.call_tir(cls.pack, (x,))
    lv1 = R.call_tir(cls.pack, (shortcut,))
    lv2 = R.call_tir(cls.kgs_conv3d, (lv, blocks, offsets, pointers, bias, lv1))
    lv3 = R.call_tir(cls.unpack, (lv2,))

The sparsity is found in the zeros of the weight, whoever pruned it. Layout changes between two
convolutions are left for KeepPacked.

With dtype float16, pack and unpack are also the border between float32 and float16: weights,
biases and all between the two are stored and computed in float16, but for convolutions that are
kept in float32 for a reason (why_float32).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tvm
from tvm import relax
from tvm.target import Target

from rt3d_tvm.compile.backends import backend_of
from rt3d_tvm.compile.ir.conv_chain import ConvChain, chain_from, is_depthwise, ungrouped
from rt3d_tvm.compile.ir.dataflow import (
    bindings,
    constant,
    dtype_of,
    ints,
    is_op,
    known_constant,
    known_shape,
    rewritten,
    static_shape,
    users,
)
from rt3d_tvm.compile.ir.packed_call import emit_pack, emit_unpack
from rt3d_tvm.compile.ir.quantized_chain import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from rt3d_tvm.compile.ir.report import ConvReport, weights_digest, with_report
from rt3d_tvm.compile.kernels.candidates import cheapest, why_none
from rt3d_tvm.compile.kernels.kernel import Convolution, Kernel
from rt3d_tvm.compile.kernels.transposed import (
    is_transposed,
    transposed_convolution,
    whole_result,
    why_not_transposed,
)
from rt3d_tvm.compile.passes.quantized_conv3d import quantized_layers
from topi_sparse.cpu.register_tile import GROUP_CHANNELS, GROUP_HEIGHTS, VectorUnit
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.opencl.work_item import WorkItem

# What the report lists; only the last of them is rewritten.
LAYERS = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS)
# A grouped convolution is written out as a weight with zeros between its groups. Where the kernel
# groups cannot leave those out, it would issue this many times its multiply-adds or more.
MAX_ISSUED = 4.0


@tvm.transform.module_pass(opt_level=0, name="CompactConv3d")
class CompactConv3d:
    """Rewrite every conv3d with a constant float32 weight; say why where one is left.

    target: whose vectors decide the register tile. group: the kernel group for all convolutions;
    by default each gets the one that fits the zeros of its weight. winograd: whether a convolution
    may be computed by Winograd's transforms where that is cheaper, at the cost of some digits.
    dtype: float32, or float16 where the target computes in it. accumulate: the type in which
    OpenCL's kernels sum what is stored in float16; those of a CPU sum it in float16.
    """

    def __init__(
        self,
        target: Target,
        group: KernelGroup | None = None,
        *,
        winograd: bool = True,
        dtype: str = "float32",
        accumulate: str = "float32",
    ) -> None:
        if group and (group.g_m not in GROUP_HEIGHTS or GROUP_CHANNELS % group.g_n):
            raise ValueError(
                f"kernel group {group}: there are kernels for {GROUP_HEIGHTS} filters "
                f"x (1, 2, 4) channels"
            )
        backend = backend_of(target)
        self.units = {name: backend.unit(target, name, accumulate) for name in ("float32", dtype)}
        self.candidates, self.pack = backend.candidates, backend.packer(self.units[dtype])
        self.group, self.dtype = group, dtype
        self.winograd = winograd

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with its convolutions rewritten, and the report as an attribute."""
        mod = relax.transform.ConvertToDataflow(min_size=1)(mod)
        rewriter = _Rewriter(mod, self)
        mod = rewritten(mod, rewriter)
        # Layers of 8 bit are kernels already; those left to this pass stand between them.
        others = iter(rewriter.report)
        known = [
            entry
            if isinstance(entry, ConvReport)
            else replace(next(others), **({"float32_reason": entry} if entry else {}))
            for entry in quantized_layers(mod)
        ]
        return with_report(mod, [*known, *others])


def why_not(call: relax.Call) -> str | None:
    """Why this convolution cannot become a kgs_conv3d, or None where it can."""
    if is_transposed(call):
        return why_not_transposed(call) or _why_not_groups(call)
    if not is_op(call, "relax.nn.conv3d"):
        return f"it is a {call.op.name.rsplit('.', 1)[-1]}; a conv3d is expected"
    attrs = call.attrs
    weight = constant(call.args[1])
    if weight is None:
        return "its weight is not a constant"
    if static_shape(call.args[0]) is None:
        return f"its input shape {call.args[0].ty.shape} is not static"
    layouts = (attrs.data_layout, attrs.kernel_layout)
    if layouts != ("NCDHW", "OIDHW") or attrs.out_layout not in ("", "NCDHW"):
        return f"its layouts are {layouts}, not ('NCDHW', 'OIDHW')"
    dtypes = (dtype_of(call.args[0]), str(weight.dtype))
    if dtypes != ("float32", "float32"):
        return f"its input and weight are {dtypes}, not float32"
    return None if is_depthwise(weight, attrs.groups) else _why_not_groups(call)


def _why_not_groups(call: relax.Call) -> str | None:
    """Why conv groups are not worth to be written out, or None."""
    weight, groups = known_constant(call.args[1]), call.attrs.groups
    if groups == 1:
        return None
    dense = ungrouped(weight, groups)
    issued = _least_issued(dense.swapaxes(0, 1) if is_transposed(call) else dense) / weight.size
    if issued < MAX_ISSUED:
        return None
    return (
        f"with {groups} groups the smallest kernel group would issue {issued:.0f} times its "
        f"multiply-adds, at most {MAX_ISSUED:.0f} are worth it"
    )


def why_float32(
    chain: ConvChain, reads: dict[relax.Var, list[relax.VarBinding | None]], dtype: str
) -> str | None:
    """Why a convolution is computed in float32 where ``dtype`` is asked for, or None."""
    if dtype == "float32":
        return None
    values = [constant(chain.conv.args[1])] + ([] if chain.bias is None else [chain.bias])
    largest, limits = max(float(abs(value).max()) for value in values), np.finfo(dtype)
    if not largest <= float(limits.max):
        return f"it holds {largest:.3g}, and {dtype} ends at {float(limits.max):.0f}"
    largest = float(abs(values[0]).max())
    if 0 < largest < float(limits.smallest_normal):
        return (
            f"its largest weight is {largest:.2g}, and {dtype} loses digits below "
            f"{float(limits.smallest_normal):.2g}"
        )
    if _only_result(chain.bindings[-1].var, reads):
        return "it gives the model's result, whose digits are kept"
    return None


def _only_result(var: relax.Var, reads: dict[relax.Var, list[relax.VarBinding | None]]) -> bool:
    """Whether a value is read for the function's result only, through reshapes and means."""
    return all(
        reader is None
        or (
            any(is_op(reader.value, name) for name in ("relax.reshape", "relax.mean"))
            and _only_result(reader.var, reads)
        )
        for reader in reads.get(var, [])
    )


def _least_issued(weight: np.ndarray) -> int:
    """Weights in the kept columns of the smallest kernel groups."""
    group = KernelGroup(g_m=GROUP_HEIGHTS[0], g_n=GROUP_CHANNELS)
    return KGSWeight.from_dense(weight, group=group, chunk=weight.shape[1]).blocks.size


def _lanes(unit: VectorUnit | WorkItem) -> int:
    """Channels of a block of the packed layout."""
    return unit.lanes if isinstance(unit, VectorUnit) else GROUP_CHANNELS


def _computed(call: relax.Call) -> tuple[int, ...]:
    """The shape of what its kernel computes."""
    return whole_result(call) if is_transposed(call) else known_shape(call)


def _whole(call: relax.Call) -> bool:
    """Whether that is its result, to which a residual can be added before it is cut."""
    return _computed(call) == known_shape(call)


def _convolution(chain: ConvChain, c_block: int) -> Convolution:
    if is_transposed(chain.conv):
        return transposed_convolution(chain, c_block)
    attrs = chain.conv.attrs
    weight = constant(chain.conv.args[1])
    depthwise = is_depthwise(weight, attrs.groups)
    if attrs.groups > 1 and not depthwise:
        weight = ungrouped(weight, attrs.groups)
    return Convolution(
        data=static_shape(chain.conv.args[0]),
        out=static_shape(chain.bindings[0].var),
        weight=weight,
        bias=chain.bias,
        stride=ints(attrs.strides),
        padding=ints(attrs.padding),
        dilation=ints(attrs.dilation),
        residual=chain.residual is not None,
        relu=chain.relu,
        ceiling=chain.ceiling,
        steps=chain.steps,
        depthwise=depthwise,
    )


def _report(
    binding: relax.VarBinding,
    kernel: Kernel | None,
    *,
    reason: str | None,
    float32_reason: str | None,
) -> ConvReport:
    call = binding.value
    weight, out = constant(call.args[1]), static_shape(binding.var)
    shape = static_shape(call.args[1])
    # Of a transposed one each input is multiplied by all that its channel has.
    counted = static_shape(call.args[0]) if call.op.name.endswith("_transpose") else out
    macs = int(np.prod(counted or (0,))) * int(np.prod(shape[1:])) if shape else 0
    density = 1.0 if weight is None else np.count_nonzero(weight) / weight.size
    if kernel is None:
        return ConvReport(
            weight=shape or (),
            out=out or (),
            density=density,
            dense_macs=macs,
            kept_macs=macs,
            reason=reason,
        )
    group, blocks = getattr(kernel.products, "group", None), kernel.pack()
    return ConvReport(
        weight=shape,
        out=out,
        density=density,
        dense_macs=macs,
        kept_macs=round(macs * density),
        issued_macs=kernel.issued_macs,
        kernel=kernel.name,
        group=str(group) if group else None,
        weights_digest=weights_digest(kernel.products, blocks),
        dtype=kernel.products.dtype,
        weight_dtype=str(blocks.dtype),
        float32_reason=float32_reason,
    )


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    """Emits each chain at its last binding, where all it reads is there, and drops the others."""

    def __init__(self, mod: tvm.IRModule, settings: CompactConv3d) -> None:
        super().__init__(mod)
        self.settings = settings
        self.report: list[ConvReport] = []

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        reads, settings = users(function), self.settings
        claimed: set[relax.Var] = set()
        self.kernel_at: dict[relax.Var, tuple[ConvChain, Kernel]] = {}
        self.dropped: set[relax.Var] = set()
        for binding in bindings(function):
            if not any(is_op(binding.value, name) for name in LAYERS):
                continue
            kernel, reason, float32_reason = None, why_not(binding.value), None
            if reason is None:
                chain = chain_from(binding, reads, claimed, whole=_whole(binding.value))
                why_wider = why_float32(chain, reads, settings.dtype)
                unit = settings.units["float32" if why_wider else settings.dtype]
                convolution = _convolution(chain, _lanes(unit))
                reason = why_none(convolution, settings.candidates)
            if reason is None:
                float32_reason = why_wider
                members = [member.var for member in chain.bindings]
                claimed.update(members)
                kernel = cheapest(
                    convolution,
                    unit,
                    settings.group,
                    winograd=settings.winograd,
                    candidates=settings.candidates,
                )
                self.kernel_at[members[-1]] = chain, kernel
                self.dropped.update(members[:-1])
            self.report.append(
                _report(binding, kernel, reason=reason, float32_reason=float32_reason)
            )
        self.builder_.update_func(name, self.visit_expr(function))

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """A kernel at the last binding of its chain, nothing at the others."""
        if binding.var in self.kernel_at:
            result = self.emit_kernel(*self.kernel_at[binding.var], binding)
            self.set_var_remap(binding.var, result)
        elif binding.var not in self.dropped:
            super().visit_var_binding_(binding)

    def emit_kernel(self, chain: ConvChain, kernel: Kernel, binding: relax.VarBinding) -> relax.Var:
        """pack, the kernel's calls, unpack; a slice, of a transposed one that computes more."""
        dtype = kernel.products.dtype
        pack, residual = self.settings.pack, None
        x = emit_pack(self.builder_, self.visit_expr(chain.conv.args[0]), kernel.x, dtype, pack)
        if chain.residual is not None:
            shortcut = self.visit_expr(chain.residual)
            residual = emit_pack(self.builder_, shortcut, kernel.y, dtype, pack)
        y = kernel.emit(self.builder_, x, residual)
        result = emit_unpack(
            self.builder_, y, _computed(chain.conv), kernel.y, dtype_of(binding.var)
        )
        if not _whole(chain.conv):
            sizes = known_shape(chain.conv)[2:]
            cut = relax.op.strided_slice(result, axes=[2, 3, 4], begin=[0, 0, 0], end=sizes)
            result = self.builder_.emit(cut)
        if isinstance(binding.var, relax.DataflowVar):
            return result
        return self.builder_.emit_output(result)
