"""What a kernel of a CPU costs: the time for its multiply-adds and for its memory traffic."""

from __future__ import annotations

import numpy as np

from rt3d_tvm.compile.kernels.kernel import issued_macs
from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.cpu.register_tile import VectorUnit, issue_slots
from topi_sparse.layout import ceil_div

# Multiply-adds that all cores do while one byte comes from or goes to memory: 100 G/s and some
# 20 GB/s on two cores of a Zen 3; a phone's big cores have about the same ratio.
MULTIPLY_ADDS_A_BYTE = 5


def issue_cost(products: KGSConv3d, *moved: int, unit: VectorUnit) -> float:
    """Multiply-adds that there is time for while the kernel runs.

    Those that it issues, with the issue slots that its tile leaves idle, and those for the elements
    ``moved`` to and from memory.
    """
    tile = products.tile
    vectors = tile.vectors(products.group.g_m)
    width = min(tile.width, products.out[4])
    slots = issue_slots(vectors, tile.lanes, width, unit, tile.channels)
    busy = vectors * width * ceil_div(tile.lanes, unit.pipe_lanes) / slots
    traffic = np.dtype(products.dtype).itemsize * sum(moved)
    return issued_macs(products) / busy + MULTIPLY_ADDS_A_BYTE * traffic
