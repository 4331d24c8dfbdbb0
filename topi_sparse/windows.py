"""The windows of a convolution: from the shape of its input to that of its output."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from topi_sparse.layout import PackedLayout


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
        return PackedLayout(c_block=self.x.c_block, halo_h=halo[0], halo_w=halo[1])

    def valid_locations(self, d) -> tuple:
        """The range of kd whose input plane exists for output plane d; others would add zeros.

        Empty where the whole window lies in the padding.
        """
        begin = self.padding[0] - d * self.stride[0]
        end = begin + self.data[2]
        last = (self.out[2] - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0]
        step = self.dilation[0]
        count = self.kernel[0]

        def clamped(location):
            return T.max(T.min((location + step - 1) // step, count), 0)

        return (
            clamped(begin) if self.padding[0] else 0,
            clamped(end) if last - self.padding[0] >= self.data[2] else count,
        )
