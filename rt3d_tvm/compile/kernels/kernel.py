"""A convolution to be computed, one way to compute it, and what ways have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import relax

from rt3d_tvm.compile.ir.packed_call import emit_call
from topi_sparse.cpu.depthwise_conv3d import DepthwiseConv3d
from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.cpu.register_tile import VectorUnit
from topi_sparse.elementwise import Step
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import PackedLayout
from topi_sparse.opencl.work_item import WorkItem


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution:
    """What is to be computed: shapes as in NCDHW, the weight (M, N, KD, KH, KW) with its zeros.

    ``depthwise``: each filter has a channel to itself, N is 1. Other groups are written out, with
    zeros between them. ``ceiling`` is the largest value that the ReLU lets through, or None.
    ``steps`` are what is done behind it (topi_sparse.elementwise). ``interleave``: the filters are
    those of so many phases along D, H and W, whose results lie between each other (transposed.py).
    """

    data: tuple[int, ...]
    out: tuple[int, ...]
    weight: np.ndarray
    bias: np.ndarray | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    residual: bool
    relu: bool
    ceiling: float | None = None
    steps: tuple[Step, ...] = ()
    depthwise: bool = False
    interleave: tuple[int, int, int] = (1, 1, 1)

    @property
    def geometry(self) -> dict:
        """The fields of a PackedConv3d that are the same whichever kernel it is."""
        return {
            "data": self.data,
            "filters": self.out[1],
            "kernel": self.weight.shape[2:],
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "relu": self.relu,
            "ceiling": self.ceiling,
            "steps": self.steps,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """One way to compute a convolution.

    products     the kernel that does the multiply-adds; ``pack`` makes its stored weights, once
    x, y         how the input and the result (and a residual) are packed
    issued_macs  multiply-adds on stored weights
    cost         in multiply-adds: the time for those and for the memory traffic
    emit         emits the calls for a packed input and a packed residual or None
    """

    name: str
    products: KGSConv3d | DepthwiseConv3d
    pack: Callable[[], np.ndarray]
    x: PackedLayout
    y: PackedLayout
    issued_macs: int
    cost: float
    emit: Callable[[relax.BlockBuilder, relax.Expr, relax.Expr | None], relax.Var]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to compute convolutions.

    why_not  why it cannot compute a convolution, or None where it can
    make     makes the Kernel, for a unit and a kernel group (None: the one that fits the zeros)
    direct   whether its sums are those of the convolution, term by term
    """

    why_not: Callable[[Convolution], str | None]
    make: Callable[[Convolution, VectorUnit | WorkItem, KernelGroup | None], Kernel]
    direct: bool = True


def kernel_of(
    products: KGSConv3d,
    weight: KGSWeight,
    bias: np.ndarray | None,
    *,
    cost: float,
) -> Kernel:
    """The Kernel that is one call of what ``products`` defines, on the input as it is."""

    def emit(builder: relax.BlockBuilder, x: relax.Expr, residual: relax.Expr | None) -> relax.Var:
        return emit_products(builder, products, weight, weight.blocks, bias, x, residual)

    return Kernel(
        name=products.name,
        products=products,
        pack=lambda: weight.blocks,
        x=products.x,
        y=products.y,
        issued_macs=issued_macs(products),
        cost=cost,
        emit=emit,
    )


def issued_macs(products: KGSConv3d) -> int:
    """Multiply-adds on stored weights."""
    batch, _, *positions = products.out
    return products.weights * batch * math.prod(positions)


def padded_bias(
    bias: np.ndarray | None, filters: int, stored: int, dtype: str = "float32"
) -> relax.Expr:
    """The constant that a kernel takes as its bias: zeros above ``filters`` and where none is."""
    padded = np.zeros(stored, dtype)
    if bias is not None:
        padded[:filters] = bias
    return relax.const(padded)


def emit_products(
    builder: relax.BlockBuilder,
    products: KGSConv3d,
    weight: KGSWeight,
    blocks: np.ndarray,
    bias: np.ndarray | None,
    x: relax.Expr,
    residual: relax.Expr | None,
) -> relax.Var:
    """Emit the call of a kernel that walks the kept columns of ``weight``."""
    args = [
        x,
        relax.const(blocks),
        relax.const(products.offsets(weight.columns)),
        relax.const(weight.pointers),
        padded_bias(
            bias,
            products.filters,
            products.stored_filters,
            products.argument_types.get("bias", products.dtype),
        ),
    ]
    if residual is not None:
        args.append(residual)
    return emit_call(builder, products.name, products.prim_func(), args)
