"""A convolution and what follows it that its kernel does as well: bias, residual, ReLU, steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import (
    constant,
    dtype_of,
    is_op,
    known_shape,
    only_reader,
    static_shape,
)
from rt3d_tvm.compile.ir.elementwise_calls import steps_behind
from topi_sparse.elementwise import Step


@dataclass(frozen=True, kw_only=True)
class ConvChain:
    """A convolution and what is fused behind it."""

    bindings: tuple[relax.VarBinding, ...]
    bias: np.ndarray | None
    residual: relax.Var | None
    relu: bool
    ceiling: float | None
    steps: tuple[Step, ...] = ()

    @property
    def conv(self) -> relax.Call:
        return self.bindings[0].value


def chain_from(
    conv: relax.VarBinding,
    reads: dict[relax.Var, list[relax.VarBinding | None]],
    claimed: set[relax.Var],
    *,
    whole: bool = True,
) -> ConvChain:
    """Follow the only reader of each value through bias, residual, ReLU, ceiling and steps.

    ``claimed`` holds what other chains have fused: of two convolutions that are added, one fuses
    the addition. ``whole``: the kernel computes the result and no more, to which no residual could
    be added.
    """
    chain, bias, residual = [conv], None, None
    relu, ceiling = False, None
    while ceiling is None:
        var = chain[-1].var
        reader = only_reader(var, reads)
        if reader is None or reader.var in claimed:
            break
        call = reader.value
        if relu:
            ceiling = _ceiling(call)
            if ceiling is None:
                break
        elif is_op(call, "relax.nn.relu"):
            relu = True
        elif is_op(call, "relax.add") and residual is None:
            other = call.args[1] if call.args[0].same_as(var) else call.args[0]
            value = constant(other)
            if value is not None and _is_bias(value, var):
                bias = value.reshape(-1) + (0 if bias is None else bias)
            elif whole and isinstance(other, relax.Var) and _same_type(other, var):
                residual = other
            else:
                break
        else:
            break
        chain.append(reader)
    steps, members = steps_behind(chain[-1].var, reads, claimed)
    return ConvChain(
        bindings=(*chain, *members),
        bias=bias,
        residual=residual,
        relu=relu,
        ceiling=ceiling,
        steps=steps,
    )


def _ceiling(call: relax.Expr) -> float | None:
    """The bound of a minimum with a constant scalar, or None for anything else."""
    value = constant(call.args[1]) if is_op(call, "relax.minimum") else None
    return float(value) if value is not None and value.ndim == 0 else None


def _is_bias(value: np.ndarray, conv: relax.Var) -> bool:
    """Whether a constant holds one value a filter, for a result of shape (B, M, D, H, W)."""
    shape = (1,) * (5 - value.ndim) + value.shape
    return shape == (1, known_shape(conv)[1], 1, 1, 1)


def _same_type(other: relax.Var, conv: relax.Var) -> bool:
    return static_shape(other) == static_shape(conv) and dtype_of(other) == dtype_of(conv)


def is_depthwise(weight: np.ndarray, groups: int) -> bool:
    """Whether each filter has a channel to itself."""
    return groups > 1 and weight.shape[:2] == (groups, 1)


def ungrouped(weight: np.ndarray, groups: int) -> np.ndarray:
    """The same convolution with one group: zeros where a filter does not see a channel."""
    m, n = weight.shape[:2]
    dense = np.zeros((m, n * groups, *weight.shape[2:]), weight.dtype)
    for g in range(groups):
        rows = slice(g * m // groups, (g + 1) * m // groups)
        dense[rows, g * n : (g + 1) * n] = weight[rows]
    return dense
