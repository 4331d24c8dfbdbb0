"""Kernels whose vectors hold neighbouring output positions, and the sweep over their tiles."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import tvm
from lane_layer import Kernel, Layer
from tvm import s_tir
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.cpu.register_tile import GROUP_CHANNELS, VectorUnit
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import ceil_div

# The sweep. Filters x vectors are those that fill the registers or half of them.
TILES = {16: ((4, 3), (4, 2), (8, 1)), 32: ((8, 3), (8, 2), (4, 6), (4, 4))}
CHUNKS, STRIPS = (4, 8, 16), (2, 6)
# Units of work where threads share out the row blocks.
FILTER_UNITS = 8


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A point of the sweep.

    filters, vectors: of a register tile. chunk: its channel groups. strips: tiles of positions that
    one row block computes after the other. by_filters: threads share out the row blocks, and not
    the positions.
    """

    filters: int
    vectors: int
    chunk: int
    strips: int
    by_filters: bool

    def __str__(self) -> str:
        shared = "filters" if self.by_filters else "positions"
        return f"{self.filters}x{self.vectors}, {self.chunk} groups, {self.strips} strips, {shared}"


def sweep(layer: Layer, group: KernelGroup, unit: VectorUnit) -> list[Choice]:
    """The choices for a layer: tiles no higher than the group, chunks no longer than the layer."""
    groups = ceil_div(layer.shape.channels, GROUP_CHANNELS)
    chunks = sorted({min(chunk, groups) for chunk in CHUNKS})
    tiles = [(m, v) for m, v in TILES[unit.registers] if group.g_m % m == 0]
    # Few positions and many weights: each weight is read by one unit, as the shipped schedule does.
    by_filters = np.count_nonzero(layer.weight) > layer.x.size
    return [
        Choice(filters=m, vectors=v, chunk=chunk, strips=strips, by_filters=by_filters)
        for (m, v), chunk, strips in itertools.product(tiles, chunks, STRIPS)
    ]


def positions_in_lanes(layer: Layer, choice: Choice, unit: VectorUnit) -> Kernel:
    """The same layer with neighbouring output positions in the lanes.

    x: channels and planes of H + 2 x W + 2 (with the padding), flat. y: (row block, plane, strip,
    filter, position of the strip), so that a tile is stored in one piece; positions of the padding
    between two rows are computed as well.
    """
    shape, lanes = layer.shape, unit.lanes
    g_n = min(GROUP_CHANNELS, shape.channels)
    weight = KGSWeight.from_dense(
        layer.weight,
        group=KernelGroup(g_m=choice.filters, g_n=g_n),
        chunk=choice.chunk,
        row_multiple=choice.filters,
    )
    (depth, height, width), (pad_d, pad_h, pad_w) = shape.data, shape.padding
    row, channels = width + 2 * pad_w, ceil_div(shape.channels, g_n) * g_n
    plane = row * (height + 2 * pad_h)
    positions = (shape.out[1] - 1) * row + shape.out[2]
    strips = ceil_div(positions, choice.vectors * lanes)
    strips = ceil_div(strips, min(choice.strips, strips)) * min(choice.strips, strips)
    x = np.zeros((channels, depth, height + 2 * pad_h, row), "float32")
    x[: shape.channels, :, pad_h : pad_h + height, pad_w : pad_w + width] = layer.x[0]
    behind = strips * choice.vectors * lanes + plane
    x = np.pad(x.ravel(), (0, behind))  # the last strip reads beyond its plane
    q, kd, kh, kw = weight.columns.astype("int64").T
    offsets = ((q * g_n * depth + kd) * plane + kh * row + kw).astype("int32")
    count_p = ceil_div(shape.filters, choice.filters)
    out_shape = (count_p, shape.out[0], strips, choice.filters, choice.vectors * lanes)
    func = _positions_kernel(
        choice,
        lanes=lanes,
        g_n=g_n,
        channel=depth * plane,
        plane=plane,
        padding=pad_d,
        kernel=shape.kernel[0],
        depth=depth,
        sizes=(len(x), len(weight.blocks), len(offsets), len(weight.pointers)),
        out=out_shape,
    )

    def result(y: np.ndarray) -> np.ndarray:
        flat = y.transpose(0, 3, 1, 2, 4).reshape(-1, shape.out[0], strips * choice.vectors * lanes)
        rows = np.pad(flat, ((0, 0), (0, 0), (0, row)))[:, :, : shape.out[1] * row]
        rows = rows.reshape(-1, *shape.out[:2], row)
        return rows[: shape.filters, ..., : shape.out[2]]

    return Kernel(
        mod=_scheduled(func, choice),
        arguments=(x, weight.blocks, offsets, weight.pointers),
        out_shape=out_shape,
        result=result,
    )


def _positions_kernel(
    choice: Choice,
    *,
    lanes: int,
    g_n: int,
    channel: int,
    plane: int,
    padding: int,
    kernel: int,
    depth: int,
    sizes: tuple[int, int, int, int],
    out: tuple[int, ...],
) -> tvm.tirx.PrimFunc:
    """(x, blocks, offsets, pointers, y); channel, plane: elements of x from one to the next."""
    filters, vectors = choice.filters, choice.vectors
    span, chunks = out[4], (sizes[3] - 1) // (out[0] * kernel)

    def lane(start):
        return T.Ramp(start, 1, lanes)

    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        types = ("float32", "float32", "int32", "int32")
        names = ("x", "blocks", "offsets", "pointers")
        x, blocks, offsets, pointers = (
            T.arg(name, T.buffer((size,), dtype))
            for name, size, dtype in zip(names, sizes, types, strict=True)
        )
        y = T.arg("y", T.buffer(out, "float32"))
        with T.sblock("root"), T.grid(*out[:3], chunks) as loops, T.sblock("tile"):
            p, d, s = (
                T.axis.spatial(extent, loop)
                for extent, loop in zip(out[:3], loops[:3], strict=True)
            )
            c = T.axis.reduce(chunks, loops[3])
            T.reads(x[0 : sizes[0]], blocks[0 : sizes[1]], offsets[0 : sizes[2]])
            T.writes(y[p, d, s, 0:filters, 0:span])
            with T.init():
                T.evaluate(0)
            acc = [T.sblock_alloc_buffer((span,), "float32", layout=None) for _ in range(filters)]
            tile = [*itertools.product(range(filters), range(0, span, lanes))]

            def start(value) -> None:
                for m, i in tile:
                    T.buffer_store(acc[m], value(m, i), [lane(i)])

            with T.If(c == 0):
                with T.Then():
                    start(lambda m, i: T.Broadcast(T.float32(0), lanes))
                with T.Else():
                    start(lambda m, i: y[p, d, s, m, lane(i)])
            first = (p * chunks + c) * kernel
            begin = T.min(T.max(padding - d, 0), kernel)
            end = T.max(T.min(depth + padding - d, kernel), begin)
            here = (d - padding) * plane + s * span
            with T.serial(pointers[first + begin], pointers[first + end]) as j:
                for n in range(g_n):
                    # Of inputs and weights those that are fewer stay in registers.
                    pairs = tile if filters >= vectors else sorted(tile, key=lambda at: at[1])
                    for m, i in pairs if vectors > 1 else tile:
                        inputs = x[lane(offsets[j] + here + n * channel + i)]
                        w = T.Broadcast(blocks[(j * g_n + n) * filters + m], lanes)
                        T.buffer_store(acc[m], acc[m][lane(i)] + inputs * w, [lane(i)])
            for m, i in tile:
                T.buffer_store(y, acc[m][lane(i)], [p, d, s, m, lane(i)])
    return builder.get()


def _scheduled(func: tvm.tirx.PrimFunc, choice: Choice) -> tvm.IRModule:
    """Parallel (row blocks or planes and blocks of strips) > chunk > row blocks > strips."""
    sch = s_tir.Schedule(func)
    p, d, s, chunk = sch.get_loops(sch.get_sblock("tile"))
    count_p, strips = int(sch.get(p).extent), int(sch.get(s).extent)
    units = math.gcd(count_p, FILTER_UNITS) if choice.by_filters else 1
    p_out, p_in = sch.split(p, [units, count_p // units])
    s_in = min(choice.strips, strips)
    s_out, s_in = sch.split(s, [strips // s_in, s_in])
    sch.reorder(p_out, d, s_out, chunk, p_in, s_in)
    sch.parallel(sch.fuse(p_out, d, s_out))
    return sch.mod
