"""The loops around the register tile of kgs_conv3d on a CPU.

The kernel's block owns the register tile and one chunk of channel groups; here stand the cache
blocking and the split over threads. Every decision is sampled with its default as the decision, so
this one function is the untuned schedule and the search space.
"""

from __future__ import annotations

import json
import math

import numpy as np
from tvm import s_tir
from tvm.target import Target

from schedules.cpu.halo import parallel_halo

# The kernels that it serves, by the attributes with their definitions.
KERNELS = ("kgs_conv3d", "quantized_kgs_conv3d")
# Half of the L2 of a Cortex-A77 (512 KiB) or of the smallest x86 core in use: for what is read, or
# read and written, several times by one unit of work, and should stay there.
CACHE_BYTES = 256 * 1024
# The same of L1.
L1_BYTES = 32 * 1024
# Units of work a thread: fewer, and the slowest one waits for; more, and the weights are read from
# memory once for each.
UNITS_PER_THREAD = 4


def schedule_kgs_conv3d(sch: s_tir.Schedule, block, target: Target) -> None:
    """Parallel (row blocks, planes, rows) > chunk > row blocks > planes > rows > strips.

    The row blocks come last where a tile's inputs are what waits for the cache, as its definition
    says.
    """
    batch, p, d, h, strips, chunk = sch.get_loops(block)
    p_out, d_out, h_out = default_splits(sch, block, int(target.attrs.get("num-cores", 1)))
    p_out, p_in = sch.split(p, _tiled(sch, p, p_out))
    d_out, d_in = sch.split(d, _tiled(sch, d, d_out))
    h_out, h_in = sch.split(h, _tiled(sch, h, h_out))
    positions = (d_in, h_in, strips)
    last = _definition(sch)["row_blocks_last"]
    inner = (*positions, p_in) if last else (p_in, *positions)
    sch.reorder(batch, p_out, d_out, h_out, chunk, *inner)
    sch.parallel(sch.fuse(batch, p_out, d_out, h_out))
    parallel_halo(sch)


def default_splits(sch: s_tir.Schedule, block, threads: int) -> tuple[int, int, int]:
    """Outer extents for (row blocks, planes, rows) that serve without tuning.

    Each unit of the outer loops reads its weights and its input once. Where there are more bytes of
    weights than of input, units share out the row blocks, so that every weight is read by one unit;
    else they share out the positions, so that every input is: in blocks of planes and rows that
    read the fewest inputs twice, and whose outputs (which every chunk reads and writes) and inputs
    (which every row block reads, unless it is the innermost loop) stay in the cache.
    """
    conv = _definition(sch)
    batch, count_p, depth, height = (int(sch.get(loop).extent) for loop in sch.get_loops(block)[:4])
    width = int(sch.mod["main"].params[-1].ty.shape[4]) - 2 * conv["y"]["halo_w"]
    weights = conv["kept"] * conv["group"]["g_m"] * conv["group"]["g_n"]
    wanted = UNITS_PER_THREAD * threads
    if weights > math.prod(conv["data"]) // conv["weight_sets"] and count_p * batch >= threads:
        outer = min((n for n in _divisors(count_p) if n * batch >= wanted), default=count_p)
        return outer, depth, _rows_out(conv, width, height, count_p // outer)
    enough = [
        (planes, rows)
        for planes in _divisors(depth)
        for rows in _divisors(height)
        if batch * planes * rows >= wanted
    ]
    if not enough:
        return (count_p if batch * depth * height < threads else 1), depth, height
    itemsize = np.dtype(conv["dtype"]).itemsize
    chunks = int(sch.get(sch.get_loops(block)[5]).extent)
    out_bytes = _row_bytes(conv, width, count_p) if chunks > 1 else 0
    in_bytes = conv["tile"]["chunk"] * conv["group"]["g_n"] * conv["data"][4] * itemsize
    window_bytes = 0
    if conv["row_blocks_last"]:
        # A window along D alone comes back to each line with the next plane.
        if conv["kernel"][1] * conv["kernel"][2] == 1 < conv["kernel"][0]:
            window_bytes = conv["kernel"][0] * in_bytes
        in_bytes = 0

    def cost(units: tuple[int, int]) -> tuple[int, int, int]:
        """What one unit has too much for the cache, and what all of them read."""
        planes, rows = depth // units[0], height // units[1]
        windows = zip(
            (planes, rows), conv["stride"], conv["kernel"], conv["dilation"], strict=False
        )
        read = 1
        for extent, stride, size, dilation in windows:
            span = (size - 1) * dilation + 1
            # A stride beyond the window skips what lies between.
            read *= (extent - 1) * min(stride, span) + span
        held = planes * rows * out_bytes + read * in_bytes
        over = max(held - CACHE_BYTES, 0) + max(rows * window_bytes - L1_BYTES, 0)
        return over, math.prod(units) * read, math.prod(units)

    return 1, *min(enough, key=cost)


def _definition(sch: s_tir.Schedule) -> dict:
    attributes = sch.mod["main"].attrs
    return json.loads(next(attributes[name] for name in KERNELS if name in attributes))


def _rows_out(conv: dict, width: int, height: int, row_blocks: int) -> int:
    """Into how many blocks of rows to split, so that one block's outputs fit the cache."""
    row_bytes = _row_bytes(conv, width, row_blocks)
    return min(
        (n for n in _divisors(height) if height // n * row_bytes <= CACHE_BYTES), default=height
    )


def _row_bytes(conv: dict, width: int, row_blocks: int) -> int:
    """What one row of the output takes for so many row blocks."""
    return row_blocks * conv["group"]["g_m"] * width * np.dtype(conv["dtype"]).itemsize


def _divisors(extent: int) -> list[int]:
    return [n for n in range(1, extent + 1) if extent % n == 0]


def _tiled(sch: s_tir.Schedule, loop, outer: int):
    extent = int(sch.get(loop).extent)
    return sch.sample_perfect_tile(
        loop, n=2, max_innermost_factor=extent, decision=[outer, extent // outer]
    )
