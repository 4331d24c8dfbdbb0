"""The packed layout of activations: channels in blocks, rows with a halo of zeros."""

from dataclasses import dataclass, replace

import numpy as np


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


@dataclass(frozen=True, kw_only=True)
class PackedLayout:
    """[B][ceil(C / c_block)][D][H + 2 halo_h][W + 2 halo_w][c_block], ``fill`` around and above C.

    The halo holds the padding that the consuming convolutions read, so that they need no guard.
    There is none along D: a convolution skips the locations kd that fall outside, which also saves
    their multiply-adds. ``fill`` is 0, or of a quantised tensor its zero point.
    """

    c_block: int
    halo_h: int = 0
    halo_w: int = 0
    fill: int = 0

    def shape(self, ncdhw: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the packed tensor that holds a tensor of shape (B, C, D, H, W)."""
        b, c, d, h, w = ncdhw
        rows, columns = h + 2 * self.halo_h, w + 2 * self.halo_w
        return (b, ceil_div(c, self.c_block), d, rows, columns, self.c_block)

    def strides(self, ncdhw: tuple[int, ...]) -> tuple[int, ...]:
        """Elements between neighbours along each axis of the packed tensor."""
        shape = self.shape(ncdhw)
        strides = [1]
        for extent in reversed(shape[1:]):
            strides.insert(0, strides[0] * extent)
        return tuple(strides)

    def packed(self, values: np.ndarray) -> np.ndarray:
        """An array (B, C, D, H, W) in this layout."""
        b, c, d, h, w = values.shape
        shape = self.shape(values.shape)
        wide = np.full((b, shape[1] * self.c_block, d, *shape[3:5]), self.fill, values.dtype)
        rows, columns = slice(self.halo_h, self.halo_h + h), slice(self.halo_w, self.halo_w + w)
        wide[:, :c, :, rows, columns] = values
        split = wide.reshape(b, shape[1], self.c_block, d, *shape[3:5])
        return np.ascontiguousarray(split.transpose(0, 1, 3, 4, 5, 2))

    def unpacked(self, stored: np.ndarray, ncdhw: tuple[int, ...]) -> np.ndarray:
        """The array of shape (B, C, D, H, W) that lies in this layout."""
        b, c, d, h, w = ncdhw
        rows, columns = slice(self.halo_h, self.halo_h + h), slice(self.halo_w, self.halo_w + w)
        split = stored[:, :, :, rows, columns].transpose(0, 1, 5, 2, 3, 4)
        return split.reshape(b, -1, d, h, w)[:, :c]

    def covering(self, other: "PackedLayout") -> "PackedLayout":
        """The smallest layout of this channel block and fill whose halo serves both."""
        return replace(
            self,
            halo_h=max(self.halo_h, other.halo_h),
            halo_w=max(self.halo_w, other.halo_w),
        )
