"""The loops around the register tile of kgs_conv3d on a CPU.

The kernel's block owns the register tile and one chunk of channel groups; here stand the cache
blocking and the split over threads. Every decision is sampled with its default as the decision, so
this one function is the untuned schedule and the search space.
"""

from __future__ import annotations

import json
import math

from tvm import s_tir
from tvm.target import Target

# Half of the L2 of a Cortex-A77 (512 KiB) or of the smallest x86 core in use: the outputs of a
# cache block are read and written once a chunk and should stay there.
OUTPUT_BYTES = 256 * 1024
# Units of work a thread: fewer, and the slowest one waits for; more, and the weights are read from
# memory once for each.
UNITS_PER_THREAD = 4


def schedule_kgs_conv3d(sch: s_tir.Schedule, block, target: Target) -> None:
    """Parallel (row blocks, planes, rows) > chunk > row blocks > planes > rows > strips.

    Where channels share the vectors, a tile reads up to seven cache lines of input for one of
    weights: then the row blocks come last, so that the input stays in L1 for all of them.
    """
    batch, p, d, h, strips, chunk = sch.get_loops(block)
    p_out, d_out, h_out = default_splits(sch, block, int(target.attrs.get("num-cores", 1)))
    p_out, p_in = sch.split(p, _tiled(sch, p, p_out))
    d_out, d_in = sch.split(d, _tiled(sch, d, d_out))
    h_out, h_in = sch.split(h, _tiled(sch, h, h_out))
    positions = (d_in, h_in, strips)
    shared = _definition(sch)["tile"]["channels"] > 1
    inner = (*positions, p_in) if shared else (p_in, *positions)
    sch.reorder(batch, p_out, d_out, h_out, chunk, *inner)
    sch.parallel(sch.fuse(batch, p_out, d_out, h_out))
    for other in sch.get_child_blocks(sch.get_sblock("root")):
        if sch.get(other).name_hint == "halo":
            sch.parallel(sch.fuse(*sch.get_loops(other)))


def default_splits(sch: s_tir.Schedule, block, threads: int) -> tuple[int, int, int]:
    """Outer extents for (row blocks, planes, rows) that serve without tuning.

    Each unit of the outer loops reads its weights and its input once. Where there are more bytes of
    weights than of input, units share out the row blocks, so that every weight is read by one unit;
    else they share out the positions, so that every input is.
    """
    conv = _definition(sch)
    batch, count_p, depth, height = (int(sch.get(loop).extent) for loop in sch.get_loops(block)[:4])
    width = int(sch.mod["main"].params[-1].ty.shape[4]) - 2 * conv["y"]["halo_w"]
    weights = conv["kept"] * conv["group"]["g_m"] * conv["group"]["g_n"]
    wanted = UNITS_PER_THREAD * threads
    if weights > math.prod(conv["data"]) // conv["weight_sets"] and count_p * batch >= threads:
        outer = min((n for n in _divisors(count_p) if n * batch >= wanted), default=count_p)
        return outer, depth, _rows_out(conv, width, height, count_p // outer)
    for planes in _divisors(depth):
        rows = _rows_out(conv, width, height, count_p)
        if batch * planes * rows >= wanted:
            return 1, planes, rows
    rows = min((n for n in _divisors(height) if n * batch * depth >= wanted), default=height)
    return (count_p if batch * depth * rows < threads else 1), depth, rows


def _definition(sch: s_tir.Schedule) -> dict:
    return json.loads(sch.mod["main"].attrs["kgs_conv3d"])


def _rows_out(conv: dict, width: int, height: int, row_blocks: int) -> int:
    """Into how many blocks of rows to split, so that one block's outputs fit the cache."""
    itemsize = {"float32": 4, "float16": 2}[conv["dtype"]]
    row_bytes = row_blocks * conv["group"]["g_m"] * width * itemsize
    return min(
        (n for n in _divisors(height) if height // n * row_bytes <= OUTPUT_BYTES), default=height
    )


def _divisors(extent: int) -> list[int]:
    return [n for n in range(1, extent + 1) if extent % n == 0]


def _tiled(sch: s_tir.Schedule, loop, outer: int):
    extent = int(sch.get(loop).extent)
    return sch.sample_perfect_tile(
        loop, n=2, max_innermost_factor=extent, decision=[outer, extent // outer]
    )
