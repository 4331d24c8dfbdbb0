"""What all packed convolutions share: windows over the input, and what they read of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import tvm
from tvm.tirx.script.builder import ir as T

from topi_sparse.epilogue import Epilogue
from topi_sparse.layout import PackedLayout, ceil_div


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Where a convolution looks in its packed input.

    data      (B, N, D, H, W) of the input, and ``x`` its layout
    padding   zeros before and after: front, top, left, back, bottom, right
    """

    data: tuple[int, int, int, int, int]
    filters: int
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int, int, int, int]
    dilation: tuple[int, int, int]
    x: PackedLayout

    @property
    def out(self) -> tuple[int, int, int, int, int]:
        """(B, M, D, H, W) of the output."""
        extents = (
            (size + before + after - dilation * (k - 1) - 1) // stride + 1
            for size, before, after, dilation, k, stride in zip(
                self.data[2:],
                self.padding[:3],
                self.padding[3:],
                self.dilation,
                self.kernel,
                self.stride,
                strict=True,
            )
        )
        return (self.data[0], self.filters, *extents)

    def needed_halo(self) -> PackedLayout:
        """The input layout with the smallest halo that holds all the zeros this kernel reads."""
        halo = []
        for axis in (1, 2):
            last = (self.out[2 + axis] - 1) * self.stride[axis] - self.padding[axis]
            last += (self.kernel[axis] - 1) * self.dilation[axis]
            halo.append(max(self.padding[axis], last - self.data[2 + axis] + 1, 0))
        return replace(self.x, halo_h=halo[0], halo_w=halo[1])

    def valid_locations(self, d) -> tuple:
        """The range of kd whose input plane exists for output plane d; others would add zeros.

        Empty where the whole window lies in the padding.
        """
        moved, step, count = d * self.stride[0], self.dilation[0], self.kernel[0]
        behind = self.padding[0] + self.data[2]
        last = (self.out[2] - 1) * self.stride[0] + (self.kernel[0] - 1) * step

        def clamped(plane: int):
            """The first location at or behind a plane of the padded input."""
            # Nothing is divided that falls as d grows: TVM makes 2 + d // -2 of (5 - d) // 2.
            locations = ceil_div(plane, step)
            passed = (moved + locations * step - plane) // step
            return T.max(T.min(locations - passed, count), 0)

        return (
            clamped(self.padding[0]) if self.padding[0] else 0,
            clamped(behind) if last >= behind else count,
        )


@dataclass(frozen=True, kw_only=True)
class PackedConv3d(Windows, Epilogue):
    """A convolution with all that follows it."""

    @property
    def summed_dtype(self) -> str:
        """The type of the sums."""
        return self.dtype

    @property
    def stored_filters(self) -> int:
        """Filters with their padding: the length of the bias."""
        raise NotImplementedError(f"{type(self).__name__} does not pad its filters")

    def prim_func(self) -> tvm.tirx.PrimFunc:
        """The kernel that this defines, not scheduled yet."""
        raise NotImplementedError(f"{type(self).__name__} defines more than one kernel")

    @property
    def weighted(self) -> tuple[tuple[PackedConv3d, int], ...]:
        """The convolutions with stored weights, and which argument of the kernel those are."""
        return ((self, 1),)


def whole(buffer):
    """The region of all of a buffer: what is read of it is known at run time only."""
    return buffer[tuple(slice(0, extent) for extent in buffer.shape)]
