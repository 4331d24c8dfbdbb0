"""group_norm: channels by the mean and the variance of their group, on packed activations.

The algorithm, for each group g of channels of each batch item n (one channel each: InstanceNorm)::

    mean = mean(x[n, c, d, h, w] for c in g, d, h, w)
    variance = mean((x[n, c, d, h, w] - mean) ** 2 for c in g, d, h, w)
    for c in g:
        factor = scale[c] / sqrt(variance + epsilon)
        y[n, c, d, h, w] = finished(x[n, c, d, h, w] * factor + (shift[c] - mean * factor))

In three steps. "planes": mean and sum of squared distances of each channel in each plane, a row at
a time, twice from the L1 cache. Rows are joined as Chan, Golub and LeVeque do, so that a large mean
costs no digits of a small variance. "groups": those of planes and channels together. "tile":
the second time that x is read, with all that follows; what is above C becomes finished(0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.epilogue import Epilogue
from topi_sparse.halo import fill_halo
from topi_sparse.prim_func import begin, spatial, typed
from topi_sparse.windows import whole

# A sum takes three cycles and two can start in each: the sums of a row are so many.
SUMS = 4


@dataclass(frozen=True, kw_only=True)
class GroupNorm(Epilogue):
    """All that defines one group_norm kernel; x and y have one channel block.

    data     (B, C, D, H, W) of the input and of the result
    groups   of channels, which divides C; C for InstanceNorm
    epsilon  what is added to a variance
    """

    name: ClassVar[str] = "group_norm"

    data: tuple[int, int, int, int, int]
    groups: int
    epsilon: float

    def prim_func(self) -> tvm.tirx.PrimFunc:
        """The kernel that this defines, not scheduled yet."""
        return group_norm(self)

    @property
    def weighted(self) -> tuple[()]:
        """It multiplies by no stored weights that could be pruned."""
        return ()

    @property
    def stored_channels(self) -> int:
        """Channels with their padding: the length of scale and shift."""
        return self.x.shape(self.data)[1] * self.x.c_block


def group_norm(norm: GroupNorm) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, scale, shift, [residual,] y); scale and shift hold zeros above C."""
    batch, blocks, depth = norm.x.shape(norm.data)[:3]
    lanes = norm.x.c_block
    shapes = {
        "x": norm.x.shape(norm.data),
        "scale": (norm.stored_channels,),
        "shift": (norm.stored_channels,),
        "residual": norm.residual and norm.residual.shape(norm.data),
        "y": norm.y.shape(norm.data),
    }
    types = typed(shapes, norm.dtype, scale="float32", shift="float32")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        args = begin(norm.name, norm.to_json(), types)
        with T.sblock("root"):
            of_planes = {
                name: T.sblock_alloc_buffer((batch, blocks, depth, lanes), "float32")
                for name in ("mean", "squares")
            }
            of_channels = {
                name: T.sblock_alloc_buffer((batch, norm.stored_channels), "float32")
                for name in ("factor", "moved")
            }
            fill_halo(norm.y, norm.data, norm.dtype, args["y"])
            _planes(norm, args["x"], of_planes)
            _groups(norm, args, of_planes, of_channels)
            _apply(norm, args, of_channels)
    return builder.get()


def _planes(norm: GroupNorm, x, of_planes: Mapping) -> None:
    """Mean and sum of squared distances of each plane, its channels in lanes."""
    (batch, blocks, depth), lanes = norm.x.shape(norm.data)[:3], norm.x.c_block
    height, breadth = norm.data[3:]
    with T.grid(batch, blocks, depth) as loops, T.sblock("planes"):
        n, block, d = spatial((batch, blocks, depth), loops)
        T.reads(whole(x))
        T.writes(*(each[n, block, d, 0:lanes] for each in of_planes.values()))
        sums = T.sblock_alloc_buffer((SUMS * lanes,), "float32", layout=None)
        lane = T.Ramp(0, 1, lanes)
        at = [n, block, d, lane]

        def value(row, column):
            indices = (n, block, d, row + norm.x.halo_h, column + norm.x.halo_w, lane)
            return _real(x[indices], norm)

        def row_sum(of_column):
            """The sum over a row of a function of the column."""
            for i in range(SUMS):
                T.buffer_store(sums, _all(0.0, lanes), [T.Ramp(i * lanes, 1, lanes)])

            def add(column, i: int) -> None:
                place = T.Ramp(i * lanes, 1, lanes)
                T.buffer_store(sums, sums[place] + of_column(column), [place])

            if breadth >= SUMS:
                with T.serial(0, breadth // SUMS) as strip:
                    for i in range(SUMS):
                        add(strip * SUMS + i, i)
            for i in range(breadth % SUMS):
                add(breadth // SUMS * SUMS + i, i)
            return sum((sums[T.Ramp(i * lanes, 1, lanes)] for i in range(1, SUMS)), sums[lane])

        mean, squares = of_planes["mean"], of_planes["squares"]
        for each in (mean, squares):
            T.buffer_store(each, _all(0.0, lanes), at)
        with T.serial(0, height) as row:
            here = T.bind(row_sum(lambda column: value(row, column)) * _all(1 / breadth, lanes))

            def distance(column):
                away = T.bind(value(row, column) - here)
                return away * away

            within = T.bind(row_sum(distance))
            away = T.bind(here - mean[tuple(at)])
            share = T.bind(tvm.tirx.const(1.0, "float32") / (row + 1).astype("float32"))
            between = (
                away
                * away
                * T.Broadcast(
                    share * row.astype("float32") * tvm.tirx.const(float(breadth), "float32"), lanes
                )
            )
            T.buffer_store(squares, squares[tuple(at)] + (within + between), at)
            T.buffer_store(mean, mean[tuple(at)] + away * T.Broadcast(share, lanes), at)


def _groups(norm: GroupNorm, args: Mapping, of_planes: Mapping, of_channels: Mapping) -> None:
    """What each channel is multiplied by, and what is added then."""
    batch, channels, depth, height, breadth = norm.data
    lanes, size = norm.x.c_block, channels // norm.groups
    mean, squares = of_planes["mean"], of_planes["squares"]
    factor, moved = of_channels["factor"], of_channels["moved"]
    with T.grid(batch, norm.groups) as loops, T.sblock("groups"):
        n, g = spatial((batch, norm.groups), loops)
        T.reads(*map(whole, (args["scale"], args["shift"], mean, squares)))
        T.writes(whole(factor), whole(moved))
        found = T.sblock_alloc_buffer((3,), "float32", layout=None)
        total, of_channel, middle = range(3)

        def real(number: float):
            return tvm.tirx.const(number, "float32")

        def sum_of(value) -> None:
            """Over channels and planes, channel by channel, into ``total``."""
            T.buffer_store(found, real(0.0), [total])
            with T.serial(0, size) as i:
                T.buffer_store(found, real(0.0), [of_channel])
                channel = g * size + i
                with T.serial(0, depth) as d:
                    place = (n, channel // lanes, d, channel % lanes)
                    T.buffer_store(found, found[of_channel] + value(place), [of_channel])
                T.buffer_store(found, found[total] + found[of_channel], [total])

        def away(place):
            distance = T.bind(mean[place] - found[middle])
            return squares[place] + distance * distance * real(float(height * breadth))

        sum_of(lambda place: mean[place])
        T.buffer_store(found, found[total] * real(1 / (size * depth)), [middle])
        sum_of(away)
        variance = found[total] * real(1 / (size * depth * height * breadth))
        inverse = T.bind(real(1.0) / T.sqrt(variance + real(norm.epsilon)))
        with T.serial(0, size) as i:
            channel = g * size + i
            of_it = T.bind(args["scale"][channel] * inverse)
            T.buffer_store(factor, of_it, [n, channel])
            T.buffer_store(moved, args["shift"][channel] - found[middle] * of_it, [n, channel])
        if norm.stored_channels > channels:
            with T.If(g == 0), T.Then(), T.serial(channels, norm.stored_channels) as channel:
                for each in (factor, moved):
                    T.buffer_store(each, real(0.0), [n, channel])


def _apply(norm: GroupNorm, args: Mapping, of_channels: Mapping) -> None:
    """The result, row by row."""
    extents, lanes = norm.x.shape(norm.data)[:3], norm.x.c_block
    extents, breadth = (*extents, norm.data[3]), norm.data[4]
    with T.grid(*extents) as loops, T.sblock("tile"):
        n, block, d, h = spatial(extents, loops)
        read = [args[name] for name in ("x", "residual") if name in args]
        T.reads(*map(whole, (*read, *of_channels.values())))
        left = norm.y.halo_w
        T.writes(args["y"][n, block, d, h + norm.y.halo_h, left : left + breadth, 0:lanes])
        factor, moved = (
            T.bind(each[n, T.Ramp(block * lanes, 1, lanes)]) for each in of_channels.values()
        )
        with T.serial(0, breadth) as w:

            def stored(layout):
                return [n, block, d, h + layout.halo_h, w + layout.halo_w, T.Ramp(0, 1, lanes)]

            value = _real(args["x"][tuple(stored(norm.x))], norm) * factor + moved
            value = value if norm.dtype == "float32" else value.astype(f"{norm.dtype}x{lanes}")
            if norm.residual:
                value = value + args["residual"][tuple(stored(norm.residual))]
            T.buffer_store(args["y"], norm.finished(value, lanes=lanes), stored(norm.y))


def _real(vector, norm: GroupNorm):
    """A vector of the input's values as float32."""
    return vector if norm.dtype == "float32" else vector.astype(f"float32x{norm.x.c_block}")


def _all(number: float, lanes: int):
    return T.Broadcast(tvm.tirx.const(number, "float32"), lanes)
