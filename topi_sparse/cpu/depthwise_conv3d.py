"""depthwise_conv3d: each channel convolved with a window of its own, channels in lanes.

There is no sum over channels, so a packed input and a packed result have their channels in the
same lanes and nothing is broadcast: a register tile is a strip of output positions of one channel
block, and a location of the window one vector of weights for all of them. What limits it is the
memory the activations come from, not the multiply-adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.cpu.dot_unit import DotUnit
from topi_sparse.cpu.register_tile import VectorUnit
from topi_sparse.halo import fill_halo
from topi_sparse.layout import PackedLayout, ceil_div
from topi_sparse.prim_func import begin, spatial, typed
from topi_sparse.windows import PackedConv3d, whole

# The attribute of the PrimFunc under which its own definition stands, as JSON.
DEPTHWISE_ATTRIBUTE = "depthwise_conv3d"


@dataclass(frozen=True, kw_only=True)
class DepthwiseConv3d(PackedConv3d):
    """All that defines one depthwise_conv3d kernel; x and y have one channel block.

    width     output columns of the register tile; a narrower body takes the rest
    """

    name: ClassVar[str] = DEPTHWISE_ATTRIBUTE

    width: int

    def prim_func(self) -> tvm.tirx.PrimFunc:
        """The kernel that this defines, not scheduled yet."""
        return depthwise_conv3d(self)

    @property
    def blocks(self) -> int:
        """Number of channel blocks."""
        return ceil_div(self.filters, self.x.c_block)

    @property
    def stored_filters(self) -> int:
        """Channels with their padding: the length of the bias."""
        return self.blocks * self.x.c_block


def packed_windows(weight: np.ndarray, c_block: int) -> np.ndarray:
    """The weight (C, 1, KD, KH, KW) as [block][kd][kh][kw][c_block], zero above C, in one axis."""
    channels, _, *kernel = weight.shape
    blocks = ceil_div(channels, c_block)
    padded = np.zeros((blocks * c_block, *kernel), weight.dtype)
    padded[:channels] = weight[:, 0]
    split = padded.reshape(blocks, c_block, *kernel)
    return np.ascontiguousarray(split.transpose(0, 2, 3, 4, 1)).ravel()


def default_width(*, out_width: int, kernel_w: int, unit: VectorUnit | DotUnit) -> int:
    """Output columns of the register tile: an accumulator and an input each, beside the weights.

    As many as there are registers for, in strips of equal width.
    """
    most = max((unit.registers - kernel_w) // 2, 1)
    return ceil_div(out_width, ceil_div(out_width, most))


def depthwise_conv3d(conv: DepthwiseConv3d) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, windows, bias, [residual,] y) of one depthwise convolution.

    x, residual and y are packed as ``conv.x``, ``conv.residual`` and ``conv.y`` say; windows are
    those of ``packed_windows``; bias holds the channels, padded with zeros. Blocks: "halo" writes
    y's zeros, "tile" all the rest.
    """
    shapes = {
        "x": conv.x.shape(conv.data),
        "windows": (conv.stored_filters * math.prod(conv.kernel),),
        "bias": (conv.stored_filters,),
        "residual": conv.residual and conv.residual.shape(conv.out),
        "y": conv.y.shape(conv.out),
    }
    return packed_depthwise(conv, typed(shapes, conv.dtype), _register_tile)


def packed_depthwise(
    conv: DepthwiseConv3d, arguments: Mapping[str, tuple], of_tile: Callable[..., None]
) -> tvm.tirx.PrimFunc:
    """The loops over strips; ``of_tile(conv, args, acc, position, columns=)`` computes one."""
    batch, _, depth, height, breadth = conv.out
    width = min(conv.width, breadth)
    strips, rest = ceil_div(breadth, width), breadth % width
    lanes = conv.x.c_block
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        args = begin(conv.name, conv.to_json(), arguments)
        with T.sblock("root"):
            fill_halo(conv.y, conv.out, arguments["y"][1], args["y"])
            extents = (batch, conv.blocks, depth, height, strips)
            with T.grid(*extents) as loops, T.sblock("tile"):
                position = spatial(extents, loops)
                n, block, d, h, strip = position
                left = conv.y.halo_w + strip * width
                T.reads(*(whole(args[name]) for name in args if name != "y"))
                T.writes(args["y"][n, block, d, h + conv.y.halo_h, left : left + width, 0:lanes])
                acc = T.sblock_alloc_buffer((width * lanes,), conv.summed_dtype, layout=None)
                if rest:
                    with T.If(strip < strips - 1):
                        with T.Then():
                            of_tile(conv, args, acc, position, columns=width)
                        with T.Else():
                            of_tile(conv, args, acc, position, columns=rest)
                else:
                    of_tile(conv, args, acc, position, columns=width)
    return builder.get()


def _register_tile(conv: DepthwiseConv3d, args, acc, position, *, columns: int) -> None:
    """An accumulator for each column: start from the bias, add the window, finish, store."""
    n, block, d, h, strip = position
    lanes, left = conv.x.c_block, strip * min(conv.width, conv.out[4])
    lane = T.Ramp(0, 1, lanes)

    def accumulator(i: int):
        return [T.Ramp(i * lanes, 1, lanes)]

    def stored(layout: PackedLayout, i: int):
        return [n, block, d, h + layout.halo_h, left + i + layout.halo_w, lane]

    for i in range(columns):
        T.buffer_store(acc, args["bias"][T.Ramp(block * lanes, 1, lanes)], accumulator(i))
    kd_begin, kd_end = conv.valid_locations(d)
    kernel_d, kernel_h, kernel_w = conv.kernel
    with T.serial(kd_begin, kd_end) as kd, T.serial(0, kernel_h) as kh:
        plane = d * conv.stride[0] - conv.padding[0] + kd * conv.dilation[0]
        row = h * conv.stride[1] - conv.padding[1] + kh * conv.dilation[1] + conv.x.halo_h
        for kw in range(kernel_w):
            location = ((block * kernel_d + kd) * kernel_h + kh) * kernel_w + kw
            weights = args["windows"][T.Ramp(location * lanes, 1, lanes)]
            for i in range(columns):
                column = (left + i) * conv.stride[2] - conv.padding[2] + kw * conv.dilation[2]
                value = args["x"][n, block, plane, row, column + conv.x.halo_w, lane]
                at = accumulator(i)
                T.buffer_store(acc, acc[tuple(at)] + value * weights, at)
    for i in range(columns):
        value = acc[tuple(accumulator(i))]
        if conv.residual:
            value = value + args["residual"][tuple(stored(conv.residual, i))]
        T.buffer_store(args["y"], conv.finished(value, lanes=lanes), stored(conv.y, i))
