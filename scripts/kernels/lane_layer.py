"""One convolution at random with its float64 oracle, and a kernel that is to compute it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tvm

from rt3d_tvm.conv_shape import ConvShape
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.layout import ceil_div

# Output positions that are compared with float64.
CHECKED = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One convolution of stride 1 with its data."""

    shape: ConvShape
    x: np.ndarray
    weight: np.ndarray

    @classmethod
    def drawn(cls, shape: ConvShape, group: KernelGroup, rate: float) -> Layer:
        """Input and weight at random; one kept location of a kernel group in ``rate``."""
        rng = np.random.default_rng(0)
        groups = (ceil_div(shape.filters, group.g_m), ceil_div(shape.channels, group.g_n))
        kept = rng.random((*groups, *shape.kernel)) < 1 / rate
        kept = kept.repeat(group.g_m, 0).repeat(group.g_n, 1)[: shape.filters, : shape.channels]
        return cls(
            shape=shape,
            x=rng.standard_normal((1, shape.channels, *shape.data), dtype="float32"),
            weight=kept * rng.standard_normal(kept.shape, dtype="float32"),
        )

    def error(self, y: np.ndarray) -> float:
        """The largest error of a result (M, D, H, W), in parts of what float32 may be off by.

        That is (1 + u)^n - 1 times the sum of the absolute values, for n terms and one more
        (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
        """
        shape = self.shape
        sides = [(pad, pad) for pad in shape.padding]
        wide = np.pad(self.x[0].astype("float64"), [(0, 0), *sides])
        windows = np.lib.stride_tricks.sliding_window_view(wide, shape.kernel, axis=(1, 2, 3))
        count = math.prod(shape.out)
        at = np.unravel_index(
            np.unique(np.linspace(0, count - 1, min(count, CHECKED)).astype(int)), shape.out
        )
        taken = windows[:, at[0], at[1], at[2]].transpose(0, 2, 3, 4, 1)
        columns = taken.reshape(-1, len(at[0]))
        weight = self.weight.reshape(shape.filters, -1).astype("float64")
        unit = float(np.finfo("float32").eps) / 2
        bound = np.expm1((len(columns) + 1) * np.log1p(unit)) * (abs(weight) @ abs(columns))
        found = abs(y[:, at[0], at[1], at[2]] - weight @ columns)
        return float(np.max(found / np.maximum(bound, np.finfo("float32").tiny)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """A scheduled function, what it is called with but its result, and how to read that."""

    mod: tvm.IRModule
    arguments: tuple[np.ndarray, ...]
    out_shape: tuple[int, ...]
    result: object
