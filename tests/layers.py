"""A layer as a search has it, with its data."""

import numpy as np

from rt3d_tvm.compile.choices.layer import Layer
from tests.oracle import ConvCase
from topi_sparse.cpu.register_tile import Tile
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.layout import PackedLayout


def case(*, g_m=8, density=0.4, seed=0, **fields) -> ConvCase:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((40, 24, 1, 3, 3)) * (rng.random((40, 24, 1, 3, 3)) < density)
    return ConvCase.make(
        weight.astype("float32"),
        seed=seed,
        group=KernelGroup(g_m=g_m, g_n=4),
        residual=PackedLayout(c_block=8),
        **{
            "data": (1, 24, 4, 12, 18),
            "stride": (1, 1, 1),
            "padding": (0, 1, 1, 0, 1, 1),
            "dilation": (1, 1, 1),
            "tile": Tile(lanes=8, width=9, chunk=4),
            "x": PackedLayout(c_block=8),
            "y": PackedLayout(c_block=8, halo_h=1, halo_w=1),
            "relu": True,
            **fields,
        },
    )


def layer_of(drawn: ConvCase) -> Layer:
    return Layer(drawn.conv, tuple(drawn.arrays()[1:5]))
