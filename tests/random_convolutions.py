"""Random pruned weights and convolutions, for hypothesis too."""

import numpy as np
from hypothesis import strategies as st

from topi_sparse.kernel_group import KernelGroup
from topi_sparse.layout import PackedLayout

SCHEMES = ("filter", "vanilla", "kgs", "irregular")


def masked(shape, *, scheme: str, density: float, group: KernelGroup, seed: int) -> np.ndarray:
    """A random weight (M, N, KD, KH, KW) pruned by a scheme; at 0 % and 100 % the mask is exact."""
    rng = np.random.default_rng(seed)
    m, n, *k = shape
    groups = (-(-m // group.g_m), -(-n // group.g_n))
    if scheme == "filter":
        keep = np.broadcast_to(rng.random((m, 1, 1, 1, 1)) < density, shape)
    elif scheme == "irregular":
        keep = rng.random(shape) < density
    else:
        locations = k if scheme == "kgs" else (1, 1, 1)
        keep = rng.random((*groups, *locations)) < density
        keep = keep.repeat(group.g_m, 0).repeat(group.g_n, 1)[:m, :n]
    return rng.standard_normal(shape).astype("float32") * keep


def draw_sizes(draw) -> tuple[tuple[int, int, int], int, int]:
    """A window, filters and channels."""
    kernel = draw(
        st.sampled_from([(3, 3, 3), (1, 3, 3), (3, 1, 1), (1, 1, 1), (1, 7, 7), (2, 2, 3)])
    )
    many = [230, 921] if kernel == (1, 1, 1) else []
    n = draw(st.sampled_from([1, 2, 3, 4, 5, 16, 45, *many]))
    m = draw(st.sampled_from([45, 40, 70, 16, 5, 1, *many]))
    return kernel, m, n


def draw_convolution(draw, kernel, m: int, n: int, group: KernelGroup) -> dict:
    """What `ConvCase.make` takes, but for the layouts and the tile."""
    dilation = tuple(draw(st.integers(1, 2)) for _ in kernel)
    padding = tuple(draw(st.integers(0, min(k, 3) + 2)) for k in kernel * 2)
    extents = [
        max(draw(st.integers(1, 9)), (k - 1) * step + 1 - before - after, 1)
        for k, step, before, after in zip(kernel, dilation, padding[:3], padding[3:], strict=True)
    ]
    return {
        "weight": masked(
            (m, n, *kernel),
            scheme=draw(st.sampled_from(SCHEMES)),
            density=draw(st.sampled_from([0.4, 1.0, 0.1, 0.0])),
            group=group,
            seed=draw(st.integers(0, 99)),
        ),
        "seed": draw(st.integers(0, 99)),
        "group": group,
        "data": (draw(st.integers(1, 2)), n, *extents),
        "stride": tuple(draw(st.integers(1, 3)) for _ in kernel),
        "padding": padding,
        "dilation": dilation,
        "relu": draw(st.booleans()),
        "ceiling": draw(st.sampled_from([None, 0.5])),
        "dtype": draw(st.sampled_from(["float32", "float16"])),
    }


def draw_residual(draw, c_block: int) -> PackedLayout | None:
    """The layout of a residual, or none."""
    return draw(
        st.none() | st.builds(PackedLayout, c_block=st.just(c_block), halo_w=st.integers(0, 1))
    )
