"""Where the work-items of opencl_kgs_conv3d read their input: a buffer, or a texture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tvm.tirx.script.builder import ir as T

from topi_sparse.opencl.texture import read_texel, taken_apart
from topi_sparse.opencl.work_item import VECTOR

if TYPE_CHECKING:
    from topi_sparse.opencl.kgs_conv3d import OpenCLKGSConv3d


class BufferSource:
    """The input of output plane (n, d) as it is: places and kept columns are counts of vectors."""

    def __init__(self, conv: OpenCLKGSConv3d, args: Mapping, n, d) -> None:
        self.conv, self.args = conv, args
        self.strides = [stride // VECTOR for stride in conv.x.strides(conv.data)[:5]]
        self.start = n * self.strides[0] + d * (conv.stride[0] * self.strides[2])
        self.step = self.strides[4] * (1 if conv.along_input else conv.stride[2])

    def place(self, position):
        """Where the window of an output position starts."""
        conv = self.conv
        if conv.along_input:
            return T.bind(self.start + position * self.step)
        row, column = position // conv.row_length, position % conv.row_length
        moved = row * (conv.stride[1] * self.strides[3]) + column * self.step
        return T.bind(self.start + moved)

    def beside(self, place, count: int):
        """The place so many output columns further in a row."""
        return place + count * self.step

    def kept(self, j):
        """Where kept column j is in a window."""
        return T.bind(self.args["offsets"][j])

    def vector(self, kept, place):
        """Four channels of a kept column."""
        return self.args["x"][0, 0, 0, 0, 0, T.Ramp((kept + place) * VECTOR, 1, VECTOR)]

    def number(self, kept, place, channel: int):
        """One of them."""
        return self.args["x"][0, 0, 0, 0, 0, (kept + place) * VECTOR + channel]


class TextureSource:
    """The same in a texture: a place is a column and a row, a kept column has a layer as well.

    Its texels are read whole, and nothing is asked for ahead: there is no ``number`` and no step.
    """

    def __init__(self, conv: OpenCLKGSConv3d, args: Mapping, n, d) -> None:
        self.conv, self.args = conv, args
        planes = conv.x.shape(conv.data)[1] * conv.data[2]
        self.layer = n * planes + d * conv.stride[0]

    def place(self, position):
        """Where the window of an output position starts."""
        row, column = position // self.conv.row_length, position % self.conv.row_length
        return T.bind(column * self.conv.stride[2]), T.bind(row * self.conv.stride[1])

    def beside(self, place, count: int):
        """The place so many output columns further in a row."""
        column, row = place
        return column + count * self.conv.stride[2], row

    def kept(self, j):
        """Where kept column j is in a window."""
        layer, row, column = taken_apart(T.bind(self.args["offsets"][j]))
        return T.bind(column), T.bind(row), T.bind(layer + self.layer)

    def vector(self, kept, place):
        """Four channels of a kept column."""
        column, row, layer = kept
        at = column + place[0], row + place[1], layer
        return read_texel(self.args["texture"], self.conv.dtype, *at)
