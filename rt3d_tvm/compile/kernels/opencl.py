"""opencl_kgs_conv3d: the kernel of a GPU."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from rt3d_tvm.compile.kernels.kernel import Candidate, Convolution, Kernel, issued_macs, kernel_of
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import PackedLayout
from topi_sparse.opencl.kgs_conv3d import OpenCLKGSConv3d
from topi_sparse.opencl.work_item import (
    VECTOR,
    WorkItem,
    item_channels,
    item_group,
    item_tile,
    item_weight_dtype,
)


def why_not_opencl(conv: Convolution) -> str | None:
    """Why opencl_kgs_conv3d cannot be used, or None where it can."""
    if conv.depthwise:
        return "each filter sees one channel: there is no such kernel for OpenCL yet"
    if math.prod(conv.interleave) > 1:
        return "it is transposed: there is no such kernel for OpenCL yet"
    return None


def by_work_items(conv: Convolution, item: WorkItem, group: KernelGroup | None) -> Kernel:
    """opencl_kgs_conv3d on the input as it is."""
    channels, positions = conv.weight.shape[1], math.prod(conv.out[3:])
    if not item.by_element and conv.stride[1:] != (1, 1):
        positions = conv.out[4]  # neighbours are in one row
    if group is None:
        group = item_group(conv.weight, positions=positions, item=item)
    else:  # a vector of activations is multiplied whole
        g_n = item_channels(channels, g_m=group.g_m, positions=positions, item=item)
        group = KernelGroup(g_m=group.g_m, g_n=g_n)
    tile, rows = item_tile(channels=channels, positions=positions, group=group, item=item)
    moved = math.prod(conv.data) + math.prod(conv.out)
    dtype = item_weight_dtype(np.count_nonzero(conv.weight), moved, item)
    weight = KGSWeight.from_dense(
        conv.weight.astype(dtype),
        group=group,
        chunk=tile.chunk,
        row_multiple=group.g_m,
        channels=tile.channels,
    )
    layout = PackedLayout(c_block=VECTOR)
    products = OpenCLKGSConv3d(
        **conv.geometry,
        group=group,
        kept=weight.kept,
        weights=weight.blocks.size,
        tile=tile,
        rows_per_item=rows,
        accumulate=item.accumulate,
        weight_dtype=dtype,
        x=layout,
        y=layout,
        residual=layout if conv.residual else None,
        dtype=item.dtype,
    )
    products = replace(products, x=products.needed_halo())
    cost = issued_macs(products)
    return kernel_of(products, weight, conv.bias, cost=cost)


OPENCL = Candidate(why_not=why_not_opencl, make=by_work_items)
OPENCL_CANDIDATES = (OPENCL,)
