"""KGSConv3d: conv3d with a constant weight -> kgs_conv3d on packed activations.

Before::

    lv = R.nn.conv3d(x, const, padding=[1, 1, 1, 1, 1, 1], ...)
    lv1 = R.add(lv, const)             # bias, if there
    lv2 = R.add(lv1, shortcut)         # residual, if there
    lv3 = R.nn.relu(lv2)               # if there
    lv4 = R.minimum(lv3, const)        # a scalar, if there

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

import functools
import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import tvm
from tvm import relax
from tvm.target import Target

from rt3d_tvm.compile.ir.dataflow import (
    bindings,
    constant,
    dtype_of,
    ints,
    is_op,
    only_reader,
    rewritten,
    static_shape,
    users,
)
from rt3d_tvm.compile.ir.packed_call import emit_pack, emit_unpack
from rt3d_tvm.compile.kernels.candidates import CANDIDATES, Convolution, Kernel, cheapest, why_none
from rt3d_tvm.compile.kernels.opencl import OPENCL_CANDIDATES
from topi_sparse import packed
from topi_sparse.cpu.kgs_conv3d import KGSConv3d as Definition
from topi_sparse.cpu.register_tile import GROUP_CHANNELS, GROUP_HEIGHTS, vector_unit
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.opencl.pack import opencl_pack
from topi_sparse.opencl.work_item import item_copies, work_item

# The module attribute under which the pass writes what became of each convolution.
REPORT_ATTRIBUTE = "kgs_conv3d_report"
# What the report lists; only the last of them is rewritten.
CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d")
# A grouped convolution is written out as a weight with zeros between its groups. Where the kernel
# groups cannot leave those out, it would issue this many times its multiply-adds or more.
MAX_ISSUED = 4.0


@dataclass(frozen=True, kw_only=True)
class ConvReport:
    """What became of one convolution: a kernel, or the reason why not.

    weights_digest tells the kernel's stored weights from others: calls move and are renamed, but
    keep them. dtype: the type of its activations; float32_reason: why, where another was asked for;
    weight_dtype: the type of its weights, which may be float32 where they are few.
    tuned: the records that its tile and schedule are from; None where they are the defaults.
    """

    weight: tuple[int, ...]
    out: tuple[int, ...]
    density: float
    dense_macs: int
    kept_macs: int
    issued_macs: int | None = None
    kernel: str | None = None
    group: str | None = None
    weights_digest: str | None = None
    dtype: str = "float32"
    weight_dtype: str = "float32"
    float32_reason: str | None = None
    tuned: str | None = None
    reason: str | None = None


def weights_digest(conv: Definition, blocks: np.ndarray) -> str:
    """A short digest of a kernel's stored weights, and of the shape they are of."""
    shape = (conv.filters, conv.data[1], *conv.kernel)
    return hashlib.sha256(str(shape).encode() + blocks.tobytes()).hexdigest()[:16]


def read_report(mod: tvm.IRModule) -> list[ConvReport]:
    """What KGSConv3d wrote: one entry for each conv3d, in the order of the graph."""
    entries = json.loads(mod.attrs[REPORT_ATTRIBUTE])
    return [
        ConvReport(**{**entry, "weight": tuple(entry["weight"]), "out": tuple(entry["out"])})
        for entry in entries
    ]


def with_report(mod: tvm.IRModule, report: list[ConvReport]) -> tvm.IRModule:
    """The module with that report: what `read_report` reads."""
    return mod.with_attr(REPORT_ATTRIBUTE, json.dumps([asdict(entry) for entry in report]))


@tvm.transform.module_pass(opt_level=0, name="KGSConv3d")
class KGSConv3d:
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
        self.pack = packed.pack
        if target.kind.name == "opencl":
            self.units = {name: work_item(target, name, accumulate) for name in ("float32", dtype)}
            self.candidates = OPENCL_CANDIDATES
            self.pack = functools.partial(opencl_pack, beside=item_copies(self.units[dtype]))
        else:
            self.units = {name: vector_unit(target, name) for name in ("float32", dtype)}
            self.candidates = CANDIDATES
        self.group, self.dtype = group, dtype
        self.winograd = winograd

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """The module with its convolutions rewritten, and the report as an attribute."""
        mod = relax.transform.ConvertToDataflow(min_size=1)(mod)
        rewriter = _Rewriter(mod, self)
        mod = rewritten(mod, rewriter)
        return with_report(mod, rewriter.report)


def why_not(call: relax.Call) -> str | None:
    """Why this convolution cannot become a kgs_conv3d, or None where it can."""
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
    if attrs.groups > 1 and not _is_depthwise(weight, attrs.groups):
        dense = _ungrouped(weight, attrs.groups)
        issued = _least_issued(dense) / weight.size
        if issued >= MAX_ISSUED:
            return (
                f"with {attrs.groups} groups the smallest kernel group would issue {issued:.0f} "
                f"times its multiply-adds, at most {MAX_ISSUED:.0f} are worth it"
            )
    return None


def why_float32(
    chain: _Chain, reads: dict[relax.Var, list[relax.VarBinding | None]], dtype: str
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


def _is_depthwise(weight: np.ndarray, groups: int) -> bool:
    """Whether each filter has a channel to itself."""
    return groups > 1 and weight.shape[:2] == (groups, 1)


def _ungrouped(weight: np.ndarray, groups: int) -> np.ndarray:
    """The same convolution with one group: zeros where a filter does not see a channel."""
    m, n = weight.shape[:2]
    dense = np.zeros((m, n * groups, *weight.shape[2:]), weight.dtype)
    for g in range(groups):
        rows = slice(g * m // groups, (g + 1) * m // groups)
        dense[rows, g * n : (g + 1) * n] = weight[rows]
    return dense


def _least_issued(weight: np.ndarray) -> int:
    """Weights in the kept columns of the smallest kernel groups."""
    group = KernelGroup(g_m=GROUP_HEIGHTS[0], g_n=GROUP_CHANNELS)
    return KGSWeight.from_dense(weight, group=group, chunk=weight.shape[1]).blocks.size


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """A convolution and what is fused behind it."""

    bindings: tuple[relax.VarBinding, ...]
    bias: np.ndarray | None
    residual: relax.Var | None
    relu: bool
    ceiling: float | None

    @property
    def conv(self) -> relax.Call:
        return self.bindings[0].value


def _chain_from(
    conv: relax.VarBinding,
    reads: dict[relax.Var, list[relax.VarBinding | None]],
    claimed: set[relax.Var],
) -> _Chain:
    """Follow the only reader of each value through bias, residual, ReLU and its ceiling.

    ``claimed`` holds what other chains have fused: of two convolutions that are added, one fuses
    the addition.
    """
    chain, bias, residual = [conv], None, None
    relu, ceiling = False, None
    while ceiling is None:
        var = chain[-1].var
        reader = only_reader(var, reads)
        if reader is None or reader.var in claimed:
            break
        call = reader.value
        if relu:
            ceiling = _ceiling(call)
            if ceiling is None:
                break
        elif is_op(call, "relax.nn.relu"):
            relu = True
        elif is_op(call, "relax.add") and residual is None:
            other = call.args[1] if call.args[0].same_as(var) else call.args[0]
            value = constant(other)
            if value is not None and _is_bias(value, var):
                bias = value.reshape(-1) + (0 if bias is None else bias)
            elif isinstance(other, relax.Var) and _same_type(other, var):
                residual = other
            else:
                break
        else:
            break
        chain.append(reader)
    return _Chain(bindings=tuple(chain), bias=bias, residual=residual, relu=relu, ceiling=ceiling)


def _ceiling(call: relax.Expr) -> float | None:
    """The bound of a minimum with a constant scalar, or None for anything else."""
    value = constant(call.args[1]) if is_op(call, "relax.minimum") else None
    return float(value) if value is not None and value.ndim == 0 else None


def _is_bias(value: np.ndarray, conv: relax.Var) -> bool:
    """Whether a constant holds one value a filter, for a result of shape (B, M, D, H, W)."""
    shape = (1,) * (5 - value.ndim) + value.shape
    return shape == (1, static_shape(conv)[1], 1, 1, 1)


def _same_type(other: relax.Var, conv: relax.Var) -> bool:
    return static_shape(other) == static_shape(conv) and dtype_of(other) == dtype_of(conv)


def _convolution(chain: _Chain) -> Convolution:
    attrs = chain.conv.attrs
    weight = constant(chain.conv.args[1])
    depthwise = _is_depthwise(weight, attrs.groups)
    if attrs.groups > 1 and not depthwise:
        weight = _ungrouped(weight, attrs.groups)
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
    macs = int(np.prod(out or (0,))) * int(np.prod(shape[1:])) if shape else 0
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

    def __init__(self, mod: tvm.IRModule, settings: KGSConv3d) -> None:
        super().__init__(mod)
        self.settings = settings
        self.report: list[ConvReport] = []

    def rewrite(self, name: tvm.ir.GlobalVar, function: relax.Function) -> None:
        """Rewrite one function and put it back into the module."""
        reads, claimed, settings = users(function), set(), self.settings
        self.kernel_at: dict[relax.Var, tuple[_Chain, Kernel]] = {}
        self.dropped: set[relax.Var] = set()
        for binding in bindings(function):
            if not any(is_op(binding.value, name) for name in CONVOLUTIONS):
                continue
            kernel, reason, float32_reason = None, why_not(binding.value), None
            if reason is None:
                chain = _chain_from(binding, reads, claimed)
                reason = why_none(_convolution(chain), settings.candidates)
            if reason is None:
                members = [member.var for member in chain.bindings]
                claimed.update(members)
                float32_reason = why_float32(chain, reads, settings.dtype)
                kernel = cheapest(
                    _convolution(chain),
                    settings.units["float32" if float32_reason else settings.dtype],
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

    def emit_kernel(self, chain: _Chain, kernel: Kernel, binding: relax.VarBinding) -> relax.Var:
        """pack, the kernel's calls, unpack."""
        dtype = kernel.products.dtype
        pack, residual = self.settings.pack, None
        x = emit_pack(self.builder_, self.visit_expr(chain.conv.args[0]), kernel.x, dtype, pack)
        if chain.residual is not None:
            shortcut = self.visit_expr(chain.residual)
            residual = emit_pack(self.builder_, shortcut, kernel.y, dtype, pack)
        y = kernel.emit(self.builder_, x, residual)
        plain = binding.var
        result = emit_unpack(self.builder_, y, static_shape(plain), kernel.y, dtype_of(plain))
        if isinstance(binding.var, relax.DataflowVar):
            return result
        return self.builder_.emit_output(result)
