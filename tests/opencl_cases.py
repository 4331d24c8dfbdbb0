"""A convolution for OpenCL, with its data."""

from tests.oracle import ConvCase
from tests.random_convolutions import masked
from topi_sparse.cpu.register_tile import Tile
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.layout import PackedLayout
from topi_sparse.opencl.kgs_conv3d import OpenCLKGSConv3d

LAYOUT = PackedLayout(c_block=4)


def one_case(
    tile: Tile | None = None,
    *,
    dtype: str = "float32",
    weight_dtype: str | None = None,
    stride: tuple[int, int, int] = (1, 1, 1),
    **fields,
) -> ConvCase:
    group = KernelGroup(g_m=8, g_n=4)
    return ConvCase.make(
        masked((32, 32, 3, 3, 3), scheme="kgs", density=0.5, group=group, seed=0),
        seed=0,
        group=group,
        data=(1, 32, 4, 14, 14),
        stride=stride,
        padding=(1,) * 6,
        dilation=(1, 1, 1),
        tile=tile or Tile(lanes=8, width=4, chunk=8, by_element=True),
        x=LAYOUT,
        y=PackedLayout(c_block=4, halo_h=1, halo_w=1),
        definition=OpenCLKGSConv3d,
        rows_per_item=8,
        dtype=dtype,
        weight_dtype=weight_dtype or dtype,
        **fields,
    )
