"""What all packed convolutions share: windows over the input, epilogue, and their JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import tvm
from tvm.tirx.script.builder import ir as T

from topi_sparse.activation import activated
from topi_sparse.elementwise import Step, after_steps, steps_from_json
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
class PackedConv3d(Windows):
    """A convolution with all that follows it, packed input to packed result, as JSON and back.

    y         layout of the result
    residual  layout of a tensor that is added before the ReLU, or None
    ceiling   the largest value the ReLU lets through, such as 6, or None
    steps     what is done behind all of that (topi_sparse.elementwise)
    """

    # The kernel, and the attribute of its PrimFunc that holds this definition.
    name: ClassVar[str]
    # What makes the fields that are not plain numbers from their JSON.
    parts: ClassVar[Mapping[str, Callable]] = dict.fromkeys(("x", "y", "residual"), PackedLayout)

    y: PackedLayout
    residual: PackedLayout | None = None
    relu: bool = False
    ceiling: float | None = None
    steps: tuple[Step, ...] = ()
    dtype: str = "float32"

    @property
    def is_finished_by_sum(self) -> bool:
        """Whether nothing is done to a sum."""
        return not (self.residual or self.relu or self.ceiling is not None or self.steps)

    def finished(self, value, *, lanes: int, dtype: str | None = None):
        """A vector of sums, the residual added, as it is stored; in ``dtype`` if not its own."""
        dtype = dtype or self.dtype
        bounded = activated(value, relu=self.relu, ceiling=self.ceiling, dtype=dtype, lanes=lanes)
        return after_steps(self.steps, bounded)

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

    def to_json(self) -> str:
        """The definition as JSON, for the PrimFunc's attribute."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PackedConv3d:
        """What ``to_json`` wrote."""
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(text).items()
        }
        fields["steps"] = steps_from_json(fields.get("steps", ()))
        for name, make in cls.parts.items():
            fields[name] = make(**fields[name]) if fields[name] else None
        return cls(**fields)


def whole(buffer):
    """The region of all of a buffer: what is read of it is known at run time only."""
    return buffer[tuple(slice(0, extent) for extent in buffer.shape)]
