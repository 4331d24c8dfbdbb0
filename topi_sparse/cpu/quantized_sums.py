"""What the kernels on 8-bit tensors have in common: what becomes of a sum of int32.

The algorithm, for each result::

    sum  = bias[m] + sum of (x - zero of x) * w[m]         in int32, exact
    y    = round(sum * scale[m])  to the nearest even, kept within [low, high]

With a residual the convolution has a scale of its own, in which it is rounded first, as the graph
says; the sum of both is brought to the scale of y. Where y is float32, it is sum * scale[m].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm.tirx.script.builder import ir as T

from topi_sparse.activation import activated
from topi_sparse.cpu.dot_unit import INSTRUCTIONS
from topi_sparse.windows import PackedConv3d

# What an activation less its zero point is at most; and how many of its largest products with a
# weight are added up in int32.
MAX_ACTIVATION = 255
MAX_TERMS = (2**31 - 1) // (MAX_ACTIVATION * 127) - 1


@dataclass(frozen=True, kw_only=True)
class QuantizedAdd:
    """A residual, and in what scale the convolution is rounded before it is added.

    The rounded convolution is kept within [low, high], counted from its zero point; one of its
    steps is ``step``. A step of the residual is ``residual_step``; ``per_step`` is the reciprocal
    of a step of the result.
    """

    low: int
    high: int
    step: float
    residual_step: float
    residual_zero: int
    per_step: float


@dataclass(frozen=True, kw_only=True)
class QuantizedSums(PackedConv3d):
    """What such a kernel's definition has beside the windows; fills are the zero points.

    result       of y: the type of the input, or float32
    instruction  of dot_unit.INSTRUCTIONS
    low, high    what the result is kept within, counted from its zero point
    added        what is known of the residual, where there is one
    """

    instruction: str
    result: str
    low: int = 0
    high: int = 0
    added: QuantizedAdd | None = None

    @property
    def summed_dtype(self) -> str:
        """The type of the sums."""
        return "int32"

    @property
    def is_real(self) -> bool:
        """Whether the result is float32."""
        return self.result == "float32"

    @property
    def corrects_planes(self) -> bool:
        """Whether what the zero point adds to a sum depends on how many planes there are."""
        kd_begin, kd_end = self.valid_locations(0)
        all_there = (kd_begin, kd_end) == (0, self.kernel[0])
        return bool(self.x.fill) and not (isinstance(kd_end, int) and all_there)

    @property
    def types_of_sums(self) -> dict[str, str]:
        """The types of the arguments that are for the sums and what becomes of them."""
        return {"bias": "int32", "scale": "float32", "planes": "int32", "y": self.result}

    @property
    def shapes_of_sums(self) -> dict[str, tuple[int, ...] | None]:
        """The shapes of the arguments between the weights and y, in order; None for none."""
        filters = self.stored_filters
        return {
            "bias": (filters,),
            "scale": (filters,),
            "planes": ((self.kernel[0] + 1) * filters,) if self.corrects_planes else None,
            "residual": self.residual and self.residual.shape(self.out),
        }

    def bias_and_planes(
        self, weight: np.ndarray, bias: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The bias less what the zero point of x adds, and for each kd what it adds before it.

        weight: int8 (M, N, KD, KH, KW); bias: int32 (M,), counted in products. The second is None
        where it is the same at all planes, and is part of the first.
        """
        stored = self.stored_filters
        before = np.zeros((self.kernel[0] + 1, stored), "int64")
        by_plane = weight.astype("int64").sum(axis=(1, 3, 4))
        before[1:, : self.filters] = np.cumsum(by_plane, axis=1).T * self.x.fill
        total = np.zeros(stored, "int64")
        if bias is not None:
            total[: self.filters] = bias
        if self.corrects_planes:
            return total.astype("int32"), before.ravel().astype("int32")
        return (total - before[-1]).astype("int32"), None


@dataclass(frozen=True, kw_only=True)
class Results:
    """A vector of results: those of ``lanes`` filters from ``first``, at plane ``d``."""

    conv: QuantizedSums
    args: Mapping
    d: object
    first: object
    lanes: int

    def of(self, total, residual: Sequence):
        """What is stored of the sums; ``residual``: indices of what is added to them."""
        conv, value = self.conv, self.scaled(total, residual)
        if conv.is_real:
            return activated(
                value, relu=conv.relu, ceiling=conv.ceiling, dtype="float32", lanes=self.lanes
            )
        rounded = self._rounded(value, conv.low, conv.high).astype(f"int32x{self.lanes}")
        zero = T.Broadcast(tvm.tirx.const(conv.y.fill, "int32"), self.lanes)
        return (rounded + zero).astype(f"{conv.result}x{self.lanes}")

    def of_four(self, values: Sequence):
        """What is stored of four vectors of 4 filters each, scaled, as one vector of int8."""
        conv = self.conv
        result = INSTRUCTIONS[conv.instruction].narrowed(values, conv.y.fill)
        limits, within = np.iinfo("int8"), (conv.low + conv.y.fill, conv.high + conv.y.fill)
        lowest, highest = (T.Broadcast(tvm.tirx.const(limit, "int8"), 16) for limit in within)
        if within[0] > limits.min:
            result = T.max(result, lowest)
        return T.min(result, highest) if within[1] < limits.max else result

    def scaled(self, total, residual: Sequence):
        """The sums, and what is added to them, in steps of the result, not rounded."""
        conv, lane = self.conv, T.Ramp(self.first, 1, self.lanes)
        total = total + self.args["bias"][lane]
        if conv.corrects_planes:
            kd_begin, kd_end = conv.valid_locations(self.d)
            planes = self.args["planes"]
            behind, before = (
                planes[T.Ramp(kd * conv.stored_filters + self.first, 1, self.lanes)]
                for kd in (kd_end, kd_begin)
            )
            total = total - (behind - before)
        value = total.astype(f"float32x{self.lanes}") * self.args["scale"][lane]
        return value if conv.added is None else self._with_residual(value, residual)

    def _with_residual(self, value, residual: Sequence):
        added = self.conv.added
        other = self.args["residual"][tuple(residual)].astype(f"int32x{self.lanes}")
        other = other - T.Broadcast(tvm.tirx.const(added.residual_zero, "int32"), self.lanes)
        value = self._rounded(value, added.low, added.high) * self._real(added.step)
        value = value + other.astype(f"float32x{self.lanes}") * self._real(added.residual_step)
        return value * self._real(added.per_step)

    def _rounded(self, value, low: int, high: int):
        """Within the bounds, then to the nearest whole number, of two the even one."""
        value = T.max(T.min(value, self._real(high)), self._real(low))
        return tvm.tirx.nearbyint(value)

    def _real(self, value: float):
        return T.Broadcast(tvm.tirx.const(value, "float32"), self.lanes)
