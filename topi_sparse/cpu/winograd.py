"""Winograd's minimal filtering for dense 3x3 windows over H and W: 4 times fewer multiply-adds.

A tile of 4 x 4 outputs is computed from 6 x 6 inputs by

    y = A^T [ sum over channels and kd of (G g G^T) * (B^T x B) ] A

with * element by element (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks). The
sum is 36 multiplications of matrices, one for each of the tile's 6 x 6 points: one kgs_conv3d with
a weight for each point, windows along D included. The transforms save multiply-adds and cost memory
traffic and digits. A weight pruned by location loses its zeros, since a point depends on all 3 x 3
locations of a kernel.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import tvm
from numpy.polynomial.polynomial import polyfromroots
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.cpu.register_tile import Tile
from topi_sparse.halo import fill_halo
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.kgs_weight import KGSWeight
from topi_sparse.layout import PackedLayout, ceil_div
from topi_sparse.prim_func import begin, spatial, typed
from topi_sparse.windows import PackedConv3d, whole

# The attributes under which the two transforms carry the definition.
INPUT_ATTRIBUTE, OUTPUT_ATTRIBUTE = "winograd_input", "winograd_output"
# Outputs and inputs along one edge of a tile.
OUTPUTS, KERNEL = 4, 3
INPUTS = OUTPUTS + KERNEL - 1
POINTS = INPUTS * INPUTS
# Where the polynomials are evaluated, infinity apart. With 1/2 and -2 instead of 2 and -2 the
# largest numbers of the transforms are smaller, and half of the rounding error is left (Barabasz
# et al., Error analysis and improving the accuracy of Winograd convolution).
INTERPOLATION = (0.0, 1.0, -1.0, 0.5, -2.0)


@dataclass(frozen=True, kw_only=True)
class Transforms:
    """The matrices of one dimension: ``output`` A^T (4, 6), ``weight`` G (6, 3), ``input`` B^T."""

    output: np.ndarray
    weight: np.ndarray
    input: np.ndarray


@functools.cache
def transforms() -> Transforms:
    """A^T, G and B^T in float64, from the interpolation points (Toom and Cook's construction)."""
    points = np.array(INTERPOLATION)
    infinity = np.eye(OUTPUTS)[-1:]
    output = np.concatenate([points[:, None] ** np.arange(OUTPUTS), infinity])
    others = [np.delete(points, i) for i in range(len(points))]
    scale = [np.prod(point - other) for point, other in zip(points, others, strict=True)]
    weight = points[:, None] ** np.arange(KERNEL) / np.array(scale)[:, None]
    return Transforms(
        output=output.T,
        weight=np.concatenate([weight, np.eye(KERNEL)[-1:]]),
        input=np.array([[*polyfromroots(other), 0] for other in others] + [polyfromroots(points)]),
    )


@dataclass(frozen=True, kw_only=True)
class WinogradConv3d(PackedConv3d):
    """All that defines the transforms around one kgs_conv3d.

    The kernel is (KD, 3, 3); stride and dilation are 1 along H and W.
    """

    @property
    def weighted(self) -> tuple[tuple[PackedConv3d, int], ...]:
        """None: the weights are those of the kgs_conv3d between the transforms."""
        return ()

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles along H and W of the output; the last of each may reach over its edge."""
        return ceil_div(self.out[3], OUTPUTS), ceil_div(self.out[4], OUTPUTS)

    @property
    def transformed(self) -> tuple[int, int, int, int, int]:
        """The shape (points x B, N, D, 1, tiles) of the transformed input."""
        tiles = self.tiles[0] * self.tiles[1]
        return (POINTS * self.data[0], self.data[1], self.data[2], 1, tiles)

    def needed_halo(self) -> PackedLayout:
        """The input layout with the smallest halo that holds all the zeros the tiles read."""
        halo = []
        for axis in (0, 1):
            before, size = self.padding[1 + axis], self.data[3 + axis]
            last = (self.tiles[axis] - 1) * OUTPUTS + INPUTS - 1 - before
            halo.append(max(before, last - size + 1))
        return PackedLayout(c_block=self.x.c_block, halo_h=halo[0], halo_w=halo[1])

    def products(self, *, group: KernelGroup, tile: Tile, weight: KGSWeight) -> KGSConv3d:
        """The kgs_conv3d between the transforms; ``weight`` is that of one point."""
        front, _, _, back, _, _ = self.padding
        return KGSConv3d(
            data=self.transformed,
            filters=self.filters,
            kernel=(self.kernel[0], 1, 1),
            stride=self.stride,
            padding=(front, 0, 0, back, 0, 0),
            dilation=self.dilation,
            group=group,
            kept=weight.kept,
            weights=weight.blocks.size,
            weight_sets=POINTS,
            tile=tile,
            x=PackedLayout(c_block=self.x.c_block),
            y=PackedLayout(c_block=self.y.c_block),
            dtype=self.dtype,
        )


def transformed_weights(weight: np.ndarray, **packing) -> list[KGSWeight]:
    """G g G^T of ``weight`` (M, N, KD, 3, 3) for each of the 36 points, ``packing`` as KGSWeight's.

    Transformed in float64 and rounded once. All points keep the same columns: those where any
    location is kept, so that kernel groups that are pruned whole stay pruned.
    """
    g = transforms().weight
    points = np.moveaxis(g @ weight.astype("float64") @ g.T, (3, 4), (0, 1))
    points = points.reshape(POINTS, *weight.shape[:3], 1, 1).astype(weight.dtype)
    kept = (weight != 0).any(axis=(3, 4), keepdims=True)
    return [KGSWeight.from_dense(point, kept=kept, **packing) for point in points]


def winograd_input(conv: WinogradConv3d) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, v): B^T x B of every tile, channels in lanes; v as ``transformed`` says.

    A row of tiles at a time: along H first, into 6 rows that stay in the L1 cache and serve
    neighbouring tiles, then along W, so that only 6 of the 36 planes are written at once.
    """
    x_layout, v_layout = conv.x, PackedLayout(c_block=conv.x.c_block)
    shapes = {"x": x_layout.shape(conv.data), "v": v_layout.shape(conv.transformed)}
    (batch, blocks, depth), (rows, columns) = shapes["x"][:3], conv.tiles
    lanes, read = conv.x.c_block, columns * OUTPUTS + INPUTS - OUTPUTS
    top, left = x_layout.halo_h - conv.padding[1], x_layout.halo_w - conv.padding[2]
    matrix = transforms().input
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        args = begin(INPUT_ATTRIBUTE, conv.to_json(), typed(shapes, conv.dtype))
        x, v = args["x"], args["v"]
        with T.sblock("root"), T.grid(batch, blocks, depth, rows) as loops, T.sblock("tile"):
            n, block, d, row = spatial((batch, blocks, depth, rows), loops)
            T.reads(x[n, block, d, 0 : shapes["x"][3], 0 : shapes["x"][4], 0:lanes])
            first = row * columns
            T.writes(
                *(
                    v[point * batch + n, block, d, 0, first : first + columns, 0:lanes]
                    for point in range(POINTS)
                )
            )
            rows_of_tile = _local(INPUTS * read * lanes, conv.dtype)
            lane = T.Ramp(0, 1, lanes)
            with T.serial(0, read) as column:
                taken = [
                    x[n, block, d, row * OUTPUTS + top + i, left + column, lane]
                    for i in range(INPUTS)
                ]
                for i, value in enumerate(_apply(matrix, taken, conv.dtype, lanes)):
                    at = (i * read + column) * lanes
                    T.buffer_store(rows_of_tile, value, [T.Ramp(at, 1, lanes)])
            for i in range(INPUTS):
                with T.serial(0, columns) as column:
                    at = i * read + column * OUTPUTS
                    taken = [
                        rows_of_tile[T.Ramp((at + j) * lanes, 1, lanes)] for j in range(INPUTS)
                    ]
                    for j, value in enumerate(_apply(matrix, taken, conv.dtype, lanes)):
                        point = (i * INPUTS + j) * batch + n
                        T.buffer_store(v, value, [point, block, d, 0, first + column, lane])
    return builder.get()


def winograd_output(conv: WinogradConv3d) -> tvm.tirx.PrimFunc:
    """The PrimFunc (u, bias, [residual,] y): A^T u A of every tile, then bias, residual and ReLU.

    u is what the kgs_conv3d wrote, (points x B, M, D, 1, tiles); y is packed as ``conv.y`` says.
    """
    batch, filters, depth, height, breadth = conv.out
    (rows, columns), lanes = conv.tiles, conv.y.c_block
    products = (POINTS * batch, filters, depth, 1, rows * columns)
    blocks = ceil_div(filters, lanes)
    shapes = {
        "u": PackedLayout(c_block=lanes).shape(products),
        "bias": (blocks * lanes,),
        "residual": conv.residual and conv.residual.shape(conv.out),
        "y": conv.y.shape(conv.out),
    }
    matrix = transforms().output
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        args = begin(OUTPUT_ATTRIBUTE, conv.to_json(), typed(shapes, conv.dtype))
        u, y, lane = args["u"], args["y"], T.Ramp(0, 1, lanes)
        with T.sblock("root"):
            fill_halo(conv.y, conv.out, conv.dtype, y)
            with T.grid(batch, blocks, depth, rows) as loops, T.sblock("tile"):
                n, block, d, row = spatial((batch, blocks, depth, rows), loops)
                T.reads(*(whole(args[name]) for name in args if name != "y"))
                T.writes(y[n, block, d, 0 : shapes["y"][3], 0 : shapes["y"][4], 0:lanes])
                half_done = _local(OUTPUTS * columns * INPUTS * lanes, conv.dtype)
                for j in range(INPUTS):
                    with T.serial(0, columns) as column:
                        taken = [
                            u[
                                (i * INPUTS + j) * batch + n,
                                block,
                                d,
                                0,
                                row * columns + column,
                                lane,
                            ]
                            for i in range(INPUTS)
                        ]
                        for i, value in enumerate(_apply(matrix, taken, conv.dtype, lanes)):
                            at = ((i * columns + column) * INPUTS + j) * lanes
                            T.buffer_store(half_done, value, [T.Ramp(at, 1, lanes)])

                def finish(value, layout_h, layout_w):
                    """Bias, residual, ReLU and steps of one output at (h, w)."""
                    value = value + args["bias"][T.Ramp(block * lanes, 1, lanes)]
                    if conv.residual:
                        h, w = layout_h + conv.residual.halo_h, layout_w + conv.residual.halo_w
                        value = value + args["residual"][n, block, d, h, w, lane]
                    return conv.finished(value, lanes=lanes)

                def store_tile(i: int, column, outputs: int) -> None:
                    at = (i * columns + column) * INPUTS
                    taken = [half_done[T.Ramp((at + j) * lanes, 1, lanes)] for j in range(INPUTS)]
                    values = _apply(matrix, taken, conv.dtype, lanes)[:outputs]
                    h = row * OUTPUTS + i
                    for j, value in enumerate(values):
                        w = column * OUTPUTS + j
                        at_y = [n, block, d, h + conv.y.halo_h, w + conv.y.halo_w, lane]
                        T.buffer_store(y, finish(value, h, w), at_y)

                def output_row(i: int) -> None:
                    full, rest = divmod(breadth, OUTPUTS)
                    if full:
                        with T.serial(0, full) as column:
                            store_tile(i, column, OUTPUTS)
                    if rest:
                        store_tile(i, full, rest)

                for i in range(OUTPUTS):
                    if (rows - 1) * OUTPUTS + i < height:
                        output_row(i)
                    elif rows > 1:  # the last row of tiles does not reach as far
                        with T.If(row < rows - 1), T.Then():
                            output_row(i)
    return builder.get()


def _local(size: int, dtype: str):
    return T.sblock_alloc_buffer((size,), dtype, scope="local", layout=None)


def _apply(matrix: np.ndarray, vectors: list, dtype: str, lanes: int) -> list:
    """matrix @ vectors of so many lanes, without the multiplications by 0 and by 1."""

    def term(factor: float, vector):
        if abs(factor) == 1:
            return vector
        return vector * T.Broadcast(tvm.tirx.const(abs(factor), dtype), lanes)

    results = []
    for row in matrix:
        total = None
        # A positive term first: then there is nothing to negate.
        for k in sorted(np.flatnonzero(row), key=lambda k: row[k] < 0):
            value = term(float(row[k]), vectors[k])
            if total is None:
                total = value if row[k] > 0 else -value
            else:
                total = total + value if row[k] > 0 else total - value
        results.append(total)
    return results
