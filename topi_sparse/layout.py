"""The packed layout of activations: channels in blocks, rows with a halo of zeros."""

from dataclasses import dataclass


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


@dataclass(frozen=True, kw_only=True)
class PackedLayout:
    """[B][ceil(C / c_block)][D][H + 2 halo_h][W + 2 halo_w][c_block], zero in the halo and above C.

    The halo holds the zero padding that the consuming convolutions read, so that they need no
    guard. There is none along D: a convolution skips the locations kd that fall outside, which
    also saves their multiply-adds.
    """

    c_block: int
    halo_h: int = 0
    halo_w: int = 0

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

    def covering(self, other: "PackedLayout") -> "PackedLayout":
        """The smallest layout of this channel block whose halo serves both."""
        return PackedLayout(
            c_block=self.c_block,
            halo_h=max(self.halo_h, other.halo_h),
            halo_w=max(self.halo_w, other.halo_w),
        )
