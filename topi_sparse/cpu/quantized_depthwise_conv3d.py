"""quantized_depthwise_conv3d: depthwise_conv3d on 8-bit activations and weights, sums of int32.

The algorithm, for a strip of output columns of one channel block at plane d, row h::

    for kd, kh in the window:
        for g in groups of 4 neighbours along W:
            for i in columns of the strip:
                for c in channels of the block:
                    for k in the 4 of the group:
                        acc[i, c] += x[.., i * stride + 4 * g + k, c] * windows[kd, kh, g, c, k]

A dot product takes the loop over k: its four bytes are a channel at four neighbouring columns. Four
columns of a channel block lie side by side, so they are one load, whose bytes are then brought into
the order of the lanes. Weights behind the window are zeros. Where there is no dot product, a group
is one location, and bytes are widened to lanes of int32.

What becomes of a sum is in quantized_sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import tvm
from tvm.tirx.script.builder import ir as T

from topi_sparse.cpu.depthwise_conv3d import DepthwiseConv3d, packed_depthwise
from topi_sparse.cpu.dot_unit import CHANNELS, INSTRUCTIONS
from topi_sparse.cpu.quantized_sums import QuantizedAdd, QuantizedSums, Results
from topi_sparse.layout import PackedLayout, ceil_div
from topi_sparse.prim_func import typed

# The attribute of the PrimFunc under which its own definition stands, as JSON.
QUANTIZED_DEPTHWISE_ATTRIBUTE = "quantized_depthwise_conv3d"


@dataclass(frozen=True, kw_only=True)
class QuantizedDepthwiseConv3d(QuantizedSums, DepthwiseConv3d):
    """All that defines one quantized_depthwise_conv3d; fills are the zero points.

    dtype: of the input, uint8 or int8. x, y and a residual have one channel block.
    """

    name: ClassVar[str] = QUANTIZED_DEPTHWISE_ATTRIBUTE
    parts: ClassVar[Mapping[str, Callable]] = {**DepthwiseConv3d.parts, "added": QuantizedAdd}

    def prim_func(self) -> tvm.tirx.PrimFunc:
        """The kernel that this defines, not scheduled yet."""
        return quantized_depthwise_conv3d(self)

    @property
    def taps(self) -> int:
        """Locations along W of one group: of one instruction for a vector of sums."""
        return CHANNELS if INSTRUCTIONS[self.instruction].one_by_one is None else 1

    @property
    def groups(self) -> int:
        """Groups of a row of the window."""
        return ceil_div(self.kernel[2], self.taps)

    def in_group(self, g: int) -> int:
        """Locations of a group that are in the window."""
        return min(self.taps, self.kernel[2] - g * self.taps)

    def read_in_group(self, g: int) -> int:
        """Columns that are read for a group: more than are in the window where that is one load."""
        side_by_side = self.in_group(g) > 1 and self.dilation[2] == 1
        return self.taps if side_by_side else self.in_group(g)

    def needed_halo(self) -> PackedLayout:
        """The input layout with the smallest halo that holds all that this kernel reads."""
        last = self.groups - 1
        read = last * self.taps + self.read_in_group(last)
        column = (
            (self.out[4] - 1) * self.stride[2] - self.padding[2] + (read - 1) * self.dilation[2]
        )
        found = super().needed_halo()
        return replace(found, halo_w=max(found.halo_w, column - self.data[4] + 1))

    def packed_windows(self, weight: np.ndarray) -> np.ndarray:
        """The weight (C, 1, KD, KH, KW) as [block][kd][kh][group][c_block][tap], in one axis.

        Zero above C and behind the window.
        """
        channels, _, *kernel = weight.shape
        padded = np.zeros((self.stored_filters, *kernel[:2], self.groups * self.taps), weight.dtype)
        padded[:channels, :, :, : kernel[2]] = weight[:, 0]
        split = padded.reshape(self.blocks, self.x.c_block, *kernel[:2], self.groups, self.taps)
        return np.ascontiguousarray(split.transpose(0, 2, 3, 4, 1, 5)).ravel()


def quantized_depthwise_conv3d(conv: QuantizedDepthwiseConv3d) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, windows, bias, scale, [planes,] [residual,] y) of one convolution.

    windows are those of ``conv.packed_windows``, bias and planes those of ``conv.bias_and_planes``;
    scale holds a factor for each channel, padded with zeros. Blocks: "halo" writes y's zero point,
    "tile" all the rest.
    """
    locations = conv.kernel[0] * conv.kernel[1] * conv.groups
    shapes = {
        "x": conv.x.shape(conv.data),
        "windows": (conv.stored_filters * locations * conv.taps,),
        **conv.shapes_of_sums,
        "y": conv.y.shape(conv.out),
    }
    types = {**conv.types_of_sums, "windows": "int8"}
    return packed_depthwise(conv, typed(shapes, conv.dtype, **types), _register_tile)


def _register_tile(
    conv: QuantizedDepthwiseConv3d, args: Mapping, acc, position, *, columns: int
) -> None:
    """A vector of sums for each column: the window, then what becomes of the sum."""
    n, block, d, h, strip = position
    lanes, left = conv.x.c_block, strip * min(conv.width, conv.out[4])

    def sums(i: int):
        return [T.Ramp(i * lanes, 1, lanes)]

    def stored(layout: PackedLayout, i: int):
        lane = T.Ramp(0, 1, lanes)
        return [n, block, d, h + layout.halo_h, left + i + layout.halo_w, lane]

    for i in range(columns):
        T.buffer_store(acc, T.Broadcast(tvm.tirx.const(0, "int32"), lanes), sums(i))
    kd_begin, kd_end = conv.valid_locations(d)
    kernel_d, kernel_h, _ = conv.kernel
    with T.serial(kd_begin, kd_end) as kd, T.serial(0, kernel_h) as kh:
        plane = d * conv.stride[0] - conv.padding[0] + kd * conv.dilation[0]
        row = h * conv.stride[1] - conv.padding[1] + kh * conv.dilation[1] + conv.x.halo_h
        for g, i in itertools.product(range(conv.groups), range(columns)):
            location = ((block * kernel_d + kd) * kernel_h + kh) * conv.groups + g
            width = lanes * conv.taps
            weights = args["windows"][T.Ramp(location * width, 1, width)]
            first = (left + i) * conv.stride[2] - conv.padding[2] + conv.x.halo_w
            first += g * conv.taps * conv.dilation[2]
            row_of_x = [n, block, plane, row, first]
            total = _multiplied(conv, args["x"], row_of_x, g, acc[tuple(sums(i))], weights)
            T.buffer_store(acc, total, sums(i))
    results = Results(conv=conv, args=args, d=d, first=block * lanes, lanes=lanes)
    for i in range(columns):
        residual = stored(conv.residual, i) if conv.residual else []
        T.buffer_store(args["y"], results.of(acc[tuple(sums(i))], residual), stored(conv.y, i))


def _multiplied(conv: QuantizedDepthwiseConv3d, x, at: list, g: int, sums, weights):
    """The sums with one group of locations; ``at``: where the first of them reads x."""
    lanes, instruction = conv.x.c_block, INSTRUCTIONS[conv.instruction]

    def columns(k: int, count: int):
        """``count`` columns that lie side by side, from location k."""
        *outer, first = at
        column = first + k * conv.dilation[2]
        return x[(*outer, column, T.Ramp(0, 1, count * lanes))]

    if conv.in_group(g) == 1:  # with zeros, or a sign, in the bytes behind it
        inputs = columns(0, 1).astype(f"int32x{lanes}")
    else:
        # Behind the window whatever was read meets weights of zero.
        if conv.dilation[2] == 1:
            vectors = [T.bind(columns(0, conv.taps))]
        else:
            last = conv.in_group(g) - 1
            vectors = [T.bind(columns(min(k, last), 1)) for k in range(conv.taps)]
        order = [k * lanes + c for c in range(lanes) for k in range(conv.taps)]
        inputs = tvm.tirx.reinterpret(f"int32x{lanes}", tvm.tirx.Shuffle(vectors, order))
    if instruction.one_by_one is None:
        return instruction.multiply(sums, inputs, weights, lanes)
    return instruction.one_by_one(sums, inputs, weights.astype(f"int32x{lanes}"), lanes)
