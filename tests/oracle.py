"""What results are compared with: float64 arithmetic by torch, and bounds that follow from it."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import tvm
from torch.nn import functional

from schedules.table import rules
from topi_sparse.cpu.kgs_conv3d import KGSConv3d, kgs_conv3d
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import PackedLayout

# Half the distance between 1 and the next float32.
UNIT_ROUNDOFF = 2.0**-24


def packed(x: np.ndarray, layout: PackedLayout) -> np.ndarray:
    """A plain (B, C, D, H, W) array in a packed layout, by numpy alone."""
    b, c, d, h, w = x.shape
    shape = layout.shape(x.shape)
    wide = np.zeros((b, shape[1] * layout.c_block, d, *shape[3:5]), x.dtype)
    rows = slice(layout.halo_h, layout.halo_h + h)
    columns = slice(layout.halo_w, layout.halo_w + w)
    wide[:, :c, :, rows, columns] = x
    split = wide.reshape(b, shape[1], layout.c_block, d, *shape[3:5])
    return np.ascontiguousarray(split.transpose(0, 1, 3, 4, 5, 2))


def conv3d_float64(x, weight, bias, *, stride, padding, dilation, groups=1) -> np.ndarray:
    """conv3d in float64; padding is front, top, left, back, bottom, right."""
    front, top, left, back, bottom, right = padding
    wide = functional.pad(torch.from_numpy(x).double(), (left, right, top, bottom, front, back))
    return functional.conv3d(
        wide,
        torch.from_numpy(weight).double(),
        None if bias is None else torch.from_numpy(bias).double(),
        stride=stride,
        dilation=dilation,
        groups=groups,
    ).numpy()


def activated(result: np.ndarray, conv) -> np.ndarray:
    """ReLU and its ceiling, as a kernel's definition says."""
    return np.clip(
        result,
        0 if conv.relu else None,
        None if conv.ceiling is None else conv.ceiling,
    )


def sum_bound(terms: int, absolute_sum: np.ndarray, dtype: str = "float32") -> np.ndarray:
    """How far a sum of products in ``dtype`` may be from the exact one, in whatever order.

    (1 + u)^n - 1 times the sum of the absolute values (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1), n being one more than the number of terms; and for each what it may
    lose below the smallest number. ``terms`` may also be the longest way from a product to the sum,
    where partial sums are made first (section 4.2).
    """
    n, u = terms + 1, float(np.finfo(dtype).eps) / 2
    lost = n * float(np.finfo(dtype).smallest_subnormal) / 2
    return np.expm1(n * np.log1p(u)) * absolute_sum + lost


def run_kernel(function: tvm.tirx.PrimFunc, arrays: list[np.ndarray], out_shape) -> np.ndarray:
    """Schedule by the table, compile for this machine, run; the result starts out as NaN.

    float16 arithmetic that the machine lacks is float32 arithmetic, rounded after each step.
    """
    target = tvm.target.Target({"kind": "llvm", "mcpu": host_cpu(), "num-cores": 2})
    mod = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    with target:
        mod = tvm.s_tir.dlight.ApplyDefaultSchedule(*rules("cpu"))(mod)
    library = tvm.compile(mod, target=target)
    tensors = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arrays]
    out = tvm.runtime.tensor(np.full(out_shape, np.nan, str(function.params[-1].ty.dtype.dtype)))
    library["main"](*tensors, out)
    return out.numpy()


def host_cpu() -> str:
    """The processor to generate code for: this one."""
    return tvm.target.codegen.llvm_get_system_cpu()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ConvCase:
    """One convolution with its data, as a test draws it."""

    conv: KGSConv3d
    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    residual: np.ndarray | None

    @classmethod
    def make(
        cls,
        weight: np.ndarray,
        *,
        seed: int,
        group: KernelGroup,
        residual: PackedLayout | None = None,
        dtype: str = "float32",
        definition: type[KGSConv3d] = KGSConv3d,
        **fields,
    ):
        """``fields`` are those of the ``definition`` that the weight does not decide."""
        rng = np.random.default_rng(seed)
        conv = definition(
            filters=weight.shape[0],
            kernel=weight.shape[2:],
            group=group,
            kept=0,
            weights=0,
            residual=residual,
            dtype=dtype,
            **fields,
        )
        types = conv.argument_types
        weight = weight.astype(types.get("blocks", dtype))
        stored = stored_weight(weight, conv)
        conv = dataclasses.replace(conv, kept=stored.kept, weights=stored.blocks.size)
        needed = conv.needed_halo().covering(conv.x)
        conv = dataclasses.replace(conv, x=needed)
        return cls(
            conv=conv,
            x=rng.standard_normal(conv.data).astype(dtype),
            weight=weight,
            bias=rng.standard_normal(conv.filters).astype(types.get("bias", dtype)),
            residual=None if residual is None else rng.standard_normal(conv.out).astype(dtype),
        )

    def run(self) -> np.ndarray:
        """The kernel's packed result."""
        return run_kernel(kgs_conv3d(self.conv), self.arrays(), self.conv.y.shape(self.conv.out))

    def arrays(self) -> list[np.ndarray]:
        """What the kernel is called with, but for its result."""
        conv, weight = self.conv, stored_weight(self.weight, self.conv)
        bias = np.zeros(conv.stored_filters, self.bias.dtype)
        bias[: conv.filters] = self.bias
        arrays = [
            packed(self.x, conv.x),
            weight.blocks,
            conv.offsets(weight.columns),
            weight.pointers,
            bias,
        ]
        if self.residual is not None:
            arrays.append(packed(self.residual, conv.residual))
        return arrays

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """The plain result in float64 and how far the kernel's type may be from it."""
        conv = self.conv
        geometry = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        result = conv3d_float64(self.x, self.weight, self.bias, **geometry)
        size = conv3d_float64(abs(self.x), abs(self.weight), abs(self.bias), **geometry)
        if self.residual is not None:
            result, size = result + self.residual, size + abs(self.residual)
        terms = self.weight[0].size
        if conv.sums_apart:  # the terms of a chunk, then the sums of the chunks
            kernel = self.weight[0, 0].size
            terms = conv.tile.chunk * conv.group.g_n * kernel + conv.chunks
        summed = getattr(conv, "accumulate", conv.dtype)
        bound = sum_bound(terms + 2, size, summed)
        if summed != conv.dtype:  # rounded once more, when it is stored
            bound += sum_bound(1, abs(result) + bound, conv.dtype)
        return activated(result, conv), bound


def stored_weight(weight: np.ndarray, conv: KGSConv3d) -> KGSWeight:
    """The weight in the format that the kernel reads."""
    return KGSWeight.from_dense(
        weight,
        group=conv.group,
        chunk=conv.tile.chunk,
        row_multiple=conv.row_multiple,
        channels=conv.tile.channels,
    )
