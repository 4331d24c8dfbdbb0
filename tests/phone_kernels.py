"""The kernels of a phone's CPU for layers pruned by KGS."""

from rt3d_tvm.compile.kernels.direct import direct
from rt3d_tvm.compile.kernels.kernel import Convolution, Kernel
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.conv_shape import ConvShape
from tests.random_convolutions import masked
from topi_sparse.cpu.register_tile import vector_unit
from topi_sparse.kernel_group import KernelGroup

GROUP = KernelGroup(g_m=8, g_n=4)


TARGET = make_target("cortex-a77")


def convolution(shape: ConvShape, rate: float) -> Convolution:
    size = (shape.filters, shape.channels, *shape.kernel)
    return Convolution(
        data=(1, shape.channels, *shape.data),
        out=(1, shape.filters, *shape.out),
        weight=masked(size, scheme="kgs", density=1 / rate, group=GROUP, seed=0),
        bias=None,
        stride=shape.stride,
        padding=shape.padding * 2,
        dilation=(1, 1, 1),
        residual=False,
        relu=True,
    )


def kernel(conv: Convolution) -> Kernel:
    return direct(conv, vector_unit(TARGET), GROUP)
