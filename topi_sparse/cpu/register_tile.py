"""Choosing the kernel group and the register tile of a convolution from its shape and the target.

The rules count issue slots, as a reader can do by hand; tuning may find better ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm.target import Target
from tvm.target.codegen import target_has_features

from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import row_blocks
from topi_sparse.layout import ceil_div

# The heights of a kernel group that are tried where none is given; g_n is 4, as in the paper.
GROUP_HEIGHTS = (4, 8, 16, 32)
GROUP_CHANNELS = 4
# What one chunk may bring into the L1 cache, weights and inputs, for each output column of the
# tile: 24 KiB of 32 for 6 columns. Every weight is read once a tile, so a wider tile may let the
# weights stream from L2, as long as the inputs stay.
CHUNK_BYTES_PER_COLUMN, MAX_CHUNK_BYTES = 4 * 1024, 48 * 1024
# Planes of the input (channel blocks x locations along D) that a chunk may read. Their distance is
# often a multiple of 4 KiB, so that all of them fall into the same few sets of an 8-way cache: a
# chunk of 24 planes ran at half the speed of one of 18.
MAX_PLANES = 18
# Bytes; of x86-64 and of the Cortex cores.
CACHE_LINE = 64
# Output columns of a tile whose inputs are a cache line each, used at one location only: the kernel
# waits for lines, and from a narrow tile the processor comes to the next ones earlier. With 8 in
# the place of 14, 64x45x3x1x1 on 16x56x56 takes three quarters of the time.
LINE_COLUMNS = 8
# A multiply-add takes 4 cycles and two can start in each: 8 accumulators would do if none were ever
# late, with fewer than these slots are left idle.
MIN_ACCUMULATORS = 10
# Registers that LLVM fills ahead of their use where each scalar serves one multiply-add: with fewer
# it spills. Where a scalar serves several it keeps one.
SCALARS_IN_FLIGHT = 5
# Load slots of one broadcast of several channels: it takes a new cache line each time, where the
# scalars of neighbouring channels come from the same one.
SHARED_LOADS = 1.5
# Of two mappings that take about as many slots the one that loads less is taken. Where every
# multiply-add takes a scalar from memory, both load ports are as busy as the pipes, and any line
# that is not there yet is waited for: 192x192x3x1x1 in 8x4, on 8x56x56 at 3.6x, takes 12.8 ms with
# scalars on a Zen 4 and 8.1 with channels that share the lanes, for 172 slots each.
AS_FAST = 1.1
# Issue slots to add up the channels of one vector of sums: six shuffles, three additions and the
# order of the filters for four of them.
SUM_SLOTS = 3
# What a chunk may add up in float16, whose sums lose half a unit in the last of 11 bits a term. The
# kernel adds the chunks' sums in a second step, so the error grows with the terms of a chunk plus
# the number of chunks; shorter ones would spend more time on the results than they save digits.
MAX_HALF_TERMS = 256
# Processors whose 512-bit vectors take two turns in pipes of 256 bit.
HALF_WIDTH_AVX512 = ("znver4",)


@dataclass(frozen=True, kw_only=True)
class VectorUnit:
    """The vector unit of one core, as a kernel of ``dtype`` sees it.

    lanes: of the widest register. pipe_lanes: that one of the two multiply-add pipes takes at a
    time; wider vectors go through in several passes.
    by_element: a multiply-add can take its scalar from a lane, so that g_n scalars cost one load.
    broadcasts: a multiply-add can broadcast its scalar from memory, without a register.
    """

    lanes: int
    pipe_lanes: int
    registers: int
    by_element: bool = False
    broadcasts: bool = False
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class Tile:
    """The register tile: vectors of filters x ``width`` output columns, a chunk of channel groups.

    ``width`` need not divide the output's width: a second, narrower body takes the rest.
    channels: that share a vector, whose lanes are (filter, channel) then; the channels are added up
    after the last column of a chunk. For row blocks that divide the vector and the channel block.
    by_element: the g_n channels of a position are loaded as one vector, whose lanes multiply-adds
    then take; else each is broadcast from memory.
    """

    lanes: int
    width: int
    chunk: int
    channels: int = 1
    by_element: bool = False

    def vectors(self, rows: int) -> int:
        """Vectors of accumulators for each output column of ``rows`` filters."""
        return rows * self.channels // self.lanes


def vector_unit(target: Target, dtype: str = "float32") -> VectorUnit:
    """The vector unit of a CPU target for float32 or float16; ValueError where none is known."""
    if dtype == "float16":
        if not target_has_features("fullfp16", target):
            raise ValueError(f"target {target} has no float16 arithmetic (fullfp16)")
        return VectorUnit(lanes=8, pipe_lanes=8, registers=32, by_element=True, dtype=dtype)
    if dtype != "float32":
        raise ValueError(f"there are kernels for float32 and float16, not for {dtype}")
    if target_has_features("avx512f", target):
        pipe_lanes = 8 if target.attrs.get("mcpu") in HALF_WIDTH_AVX512 else 16
        return VectorUnit(lanes=16, pipe_lanes=pipe_lanes, registers=32, broadcasts=True)
    if target_has_features("avx2", target):
        return VectorUnit(lanes=8, pipe_lanes=8, registers=16)
    if target_has_features("neon", target):
        return VectorUnit(lanes=4, pipe_lanes=4, registers=32, by_element=True)
    if target_has_features("sse2", target):
        return VectorUnit(lanes=4, pipe_lanes=4, registers=16)
    raise ValueError(f"target {target} has none of AVX-512, AVX2, SSE2 and NEON")


def lane_mappings(group: KernelGroup, unit: VectorUnit) -> list[tuple[int, int]]:
    """What vectors may hold of a row block of ``group``: (lanes, channels), see Tile.

    Filters alone, each input broadcast to all lanes; or the group's channels of fewer filters, all
    inputs of a position broadcast at once, which fills the lanes where there are few filters and
    loads a quarter as often. A unit that multiplies by element loads as seldom by itself.
    """
    mappings = [(min(group.g_m, unit.lanes), 1)]
    if not unit.by_element and group.g_n == GROUP_CHANNELS < unit.lanes and group.g_m <= unit.lanes:
        mappings.append((unit.lanes, GROUP_CHANNELS))
    return mappings


def tile_width(
    *, vectors: int, lanes: int, out_width: int, unit: VectorUnit, channels: int = 1
) -> int:
    """Columns of a register tile: the fewest issue slots for a row of ``out_width`` columns."""
    if unit.by_element:  # LLVM keeps one vector of scalars a column and g_n weights a row vector
        most = (unit.registers - GROUP_CHANNELS * vectors) // (vectors + 1)
    else:  # a multiply-add cannot broadcast several channels by itself
        broadcasts = unit.broadcasts and channels == 1
        scalars = 0 if broadcasts else SCALARS_IN_FLIGHT if vectors == 1 else 1
        # A channel's weights are in registers, and its scalars pass through; or the other way.
        most = max(
            (unit.registers - vectors - scalars) // vectors,
            (unit.registers - 1) // (vectors + 1),
        )
    most = min(max(most, 1), out_width)

    def slots(width: int) -> float:
        return of_row(
            width, out_width, lambda columns: issue_slots(vectors, lanes, columns, unit, channels)
        )

    # Of equal ones, one that needs no second body for the rest, then the widest.
    return min(range(1, most + 1), key=lambda width: (slots(width), out_width % width > 0, -width))


def of_row(width: int, out_width: int, cost: Callable[[int], float]) -> float:
    """What a row of ``out_width`` columns costs in tiles of ``width``, with the rest of it."""
    whole, rest = divmod(out_width, width)
    return whole * cost(width) + (cost(rest) if rest else 0)


def loads(vectors: int, lanes: int, width: int, unit: VectorUnit, channels: int = 1) -> float:
    """Load slots to multiply one channel of one column, or all that share a vector, into the tile.

    A vector of weights counts twice, since it streams from L2; an input is a load for each output
    column, or a quarter where a multiply-add can take it from a vector of neighbouring channels.
    """
    weights = 2 * vectors * ceil_div(lanes, unit.pipe_lanes)
    if channels > 1:
        return weights + SHARED_LOADS * width
    return weights + (ceil_div(width, GROUP_CHANNELS) if unit.by_element else width)


def issue_slots(vectors: int, lanes: int, width: int, unit: VectorUnit, channels: int = 1) -> float:
    """Half cycles for the same: two multiply-adds and two loads can start in each cycle."""
    multiply_adds = vectors * width * ceil_div(lanes, unit.pipe_lanes)
    return max(multiply_adds, loads(vectors, lanes, width, unit, channels), MIN_ACCUMULATORS)


def work(
    mapping: tuple[int, int],
    *,
    rows: int,
    blocks: int,
    products: float,
    out_width: int,
    unit: VectorUnit,
) -> np.ndarray:
    """Issue slots for one output column of ``blocks`` row blocks, and the load slots among them.

    Of the mean column of a row, whose last tile is narrower and may leave the pipes idle.
    mapping: one of ``lane_mappings``; products: kept columns x channels of all these row blocks.
    """
    lanes, channels = mapping
    vectors = rows * channels // lanes
    width = tile_width(
        vectors=vectors, lanes=lanes, out_width=out_width, unit=unit, channels=channels
    )

    steps = products / channels / out_width

    def of_column(cost: Callable[..., float]) -> float:
        return steps * of_row(
            width, out_width, lambda columns: cost(vectors, lanes, columns, unit, channels)
        )

    sums = SUM_SLOTS * vectors * ceil_div(lanes, unit.pipe_lanes) * blocks if channels > 1 else 0
    return np.array([of_column(issue_slots) + sums, of_column(loads)])


def default_tile(
    *,
    channels: int,
    kernel: tuple[int, int, int],
    density: float,
    out_width: int,
    stride_w: int,
    c_block: int,
    group: KernelGroup,
    unit: VectorUnit,
    weight_sets: int = 1,
) -> Tile:
    """The register tile that serves without tuning.

    The chunk is as long as its weights and inputs stay in the L1 cache, and its planes out of each
    other's way there, in whole channel blocks of the input, since a cache line holds one. Where
    lines are read for one location only, there is nothing to keep, and one chunk.
    """
    kd, kh, kw = kernel
    one_block = {
        "rows": group.g_m,
        "blocks": 1,
        "products": ceil_div(channels, group.g_n) * group.g_n * kd * kh * kw * density,
        "out_width": out_width,
        "unit": unit,
    }
    mappings = {mapping: work(mapping, **one_block) for mapping in lane_mappings(group, unit)}
    least = min(slots for slots, _ in mappings.values())
    as_fast = {each: loads for each, (slots, loads) in mappings.items() if slots <= AS_FAST * least}
    lanes, shared = min(as_fast, key=as_fast.get)
    itemsize = np.dtype(unit.dtype).itemsize
    by_line = kh * kw == shared == weight_sets == 1 and c_block * itemsize >= CACHE_LINE
    width = tile_width(
        vectors=group.g_m * shared // lanes,
        lanes=lanes,
        out_width=min(out_width, LINE_COLUMNS) if by_line else out_width,
        unit=unit,
        channels=shared,
    )
    weights = kd * kh * kw * density * group.g_m * group.g_n * itemsize
    inputs = kd * kh * ((width - 1) * stride_w + kw) * group.g_n * itemsize
    block = max(c_block // group.g_n, 1)
    groups = ceil_div(channels, group.g_n)
    budget = min(CHUNK_BYTES_PER_COLUMN * width, MAX_CHUNK_BYTES)
    chunk = max(min(round(budget / (weights + inputs) / block), MAX_PLANES // kd), 1) * block
    if by_line:
        chunk = groups
    if unit.dtype == "float16":
        terms = kd * kh * kw * max(density, 0.01) * group.g_n
        chunk = min(chunk, max(int(MAX_HALF_TERMS / terms / block), 1) * block)
    chunks = ceil_div(groups, chunk)
    return Tile(
        lanes=lanes,
        width=width,
        chunk=ceil_div(ceil_div(groups, chunks), block) * block,
        channels=shared,
        by_element=unit.by_element and group.g_n == GROUP_CHANNELS,
    )


def default_group(
    weight: np.ndarray,
    *,
    out_width: int,
    c_block: int,
    unit: VectorUnit,
    g_n: int = GROUP_CHANNELS,
    heights: Sequence[int] = GROUP_HEIGHTS,
) -> KernelGroup:
    """The kernel group whose kernel would issue the least work for the zeros found in ``weight``.

    weight: (M, N, KD, KH, KW); g_n: the group's channels; heights: those to choose from. A tall
    group shares each input among more filters but keeps a column as long as one of them needs it:
    both are counted.
    """

    def least_work(g_m: int) -> tuple[float, float]:
        """Issue slots for one column of outputs, and the loads among them, which break a tie."""
        group = KernelGroup(g_m=g_m, g_n=g_n)
        blocks, last_rows = row_blocks(weight.shape[0], g_m, c_block)
        columns = columns_by_row_block(weight, group, blocks)
        common = {"out_width": out_width, "unit": unit}
        return min(
            tuple(
                work(
                    mapping,
                    rows=g_m,
                    blocks=blocks - 1,
                    products=columns[:-1].sum() * g_n,
                    **common,
                )
                + work(mapping, rows=last_rows, blocks=1, products=columns[-1] * g_n, **common)
            )
            for mapping in lane_mappings(group, unit)
        )

    return KernelGroup(g_m=min(sorted(heights, reverse=True), key=least_work), g_n=g_n)


def columns_by_row_block(weight: np.ndarray, group: KernelGroup, blocks: int) -> np.ndarray:
    """Kept columns of each of ``blocks`` row blocks of ``weight`` (M, N, KD, KH, KW)."""
    m, n = weight.shape[:2]
    padded = np.zeros(
        (blocks * group.g_m, ceil_div(n, group.g_n) * group.g_n, *weight.shape[2:]), bool
    )
    padded[:m, :n] = weight != 0
    split = padded.reshape(blocks, group.g_m, -1, group.g_n, *weight.shape[2:])
    return split.any(axis=(1, 3)).sum(axis=(1, 2, 3, 4))


def pruning_group(unit: VectorUnit) -> KernelGroup:
    """The smallest kernel group that keeps the unit busy: what to prune in for this target.

    Two vectors of filters, so that what is loaded of an input serves two multiply-adds. Channels
    that share vectors with fewer filters serve as many, but add up in the end, and each cache line
    of the input serves a quarter of the filters: a tenth of the time in C3D's larger layers.
    Smaller groups leave pruning more freedom (paper, section 3).
    """
    return KernelGroup(g_m=2 * unit.pipe_lanes, g_n=GROUP_CHANNELS)
