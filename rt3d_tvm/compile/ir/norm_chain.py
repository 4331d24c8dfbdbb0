"""A normalisation over groups of channels as importers write it, found among Relax operators.

    lv = R.mean(x, axis=[2, 3, 4], keepdims=True)
    lv1 = R.subtract(x, lv)
    lv2 = R.variance(x, axis=[2, 3, 4], keepdims=True)
    lv3 = R.add(lv2, epsilon)
    lv4 = R.sqrt(lv3)
    lv5 = R.divide(lv1, lv4)
    lv6 = R.multiply(lv5, scale)      # a constant per channel, if there
    lv7 = R.add(lv6, shift)           # the same

GroupNorm has a reshape to (B, groups, -1) before and one back behind it, a scale and shift of each
group between them, and of each channel behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from rt3d_tvm.compile.ir.dataflow import (
    constant,
    dtype_of,
    ints,
    is_op,
    known_shape,
    only_reader,
    static_shape,
)

Reads = dict[relax.Var, list[relax.VarBinding | None]]


@dataclass(frozen=True, kw_only=True)
class NormChain:
    """What is normalised, and how; ``bindings``: all that this stands for, the result's last.

    scale, shift: float32, a value per channel.
    """

    bindings: tuple[relax.VarBinding, ...]
    x: relax.Var
    groups: int
    epsilon: float
    scale: np.ndarray
    shift: np.ndarray


def norm_from(
    mean: relax.VarBinding, reads: Reads, binding_of: dict[relax.Var, relax.VarBinding]
) -> NormChain | None:
    """The normalisation that begins with this mean, of a clip or of the groups of one, or None."""
    if not is_op(mean.value, "relax.mean") or not isinstance(mean.value.args[0], relax.Var):
        return None
    x = mean.value.args[0]
    core = _core(mean, x, reads)
    if core is None:
        return None
    epsilon, members = core
    shape = known_shape(x)
    scale, shift, affine = _affine(members[-1].var, shape[1], reads)
    members += affine
    if len(shape) == 5:
        groups = shape[1]
    else:
        before, behind = binding_of.get(x), only_reader(members[-1].var, reads)
        if before is None or not is_op(before.value, "relax.reshape"):
            return None
        clip = before.value.args[0]
        if behind is None or not is_op(behind.value, "relax.reshape"):
            return None
        if not isinstance(clip, relax.Var) or not _is_grouped(clip, x, behind.var):
            return None
        groups, channels = shape[1], known_shape(clip)[1]
        size = channels // groups
        # What is only read here; a reshape that others read stays for them.
        members = [*([before] if _reads_alone(x, members, reads) else []), *members, behind]
        x, (scale, shift) = clip, (np.repeat(each, size) for each in (scale, shift))
        factor, added, affine = _affine(behind.var, channels, reads)
        scale, shift = scale * factor, shift * factor + added
        members += affine
    return NormChain(
        bindings=tuple(members), x=x, groups=groups, epsilon=epsilon, scale=scale, shift=shift
    )


def _core(
    mean: relax.VarBinding, x: relax.Var, reads: Reads
) -> tuple[float, list[relax.VarBinding]] | None:
    """From the mean to the quotient: the epsilon, and all bindings."""
    shape = static_shape(x)
    if shape is None or len(shape) not in (3, 5) or dtype_of(x) not in ("float32", "float16"):
        return None
    axes = list(range(2, len(shape)))
    if not _is_over(mean.value, axes):
        return None
    others = [
        each
        for each in reads.get(x, [])
        if each is not None and is_op(each.value, "relax.variance") and _is_over(each.value, axes)
    ]
    distance = only_reader(mean.var, reads)
    if len(others) != 1 or distance is None or not _is_of(distance, "subtract", x, mean.var):
        return None
    variance = others[0]
    added = only_reader(variance.var, reads)
    if added is None or not is_op(added.value, "relax.add"):
        return None
    epsilon = constant(added.value.args[1])
    root = only_reader(added.var, reads)
    if epsilon is None or epsilon.size != 1 or root is None or not is_op(root.value, "relax.sqrt"):
        return None
    quotient = only_reader(root.var, reads)
    if quotient is None or not _is_of(quotient, "divide", distance.var, root.var):
        return None
    if only_reader(distance.var, reads) is None:
        return None
    return float(epsilon.item()), [mean, distance, variance, added, root, quotient]


def _is_over(call: relax.Call, axes: list[int]) -> bool:
    return bool(call.attrs.keepdims) and sorted(ints(call.attrs.axis or ())) == axes


def _is_of(binding: relax.VarBinding, name: str, a: relax.Var, b: relax.Var) -> bool:
    call = binding.value
    return is_op(call, f"relax.{name}") and call.args[0].same_as(a) and call.args[1].same_as(b)


def _affine(
    var: relax.Var, channels: int, reads: Reads
) -> tuple[np.ndarray, np.ndarray, list[relax.VarBinding]]:
    """Factor and summand of each channel behind a value, and the bindings that say so."""
    scale, shift = np.ones(channels, "float32"), np.zeros(channels, "float32")
    found: list[relax.VarBinding] = []
    for name, values in (("relax.multiply", scale), ("relax.add", shift)):
        reader = only_reader(var, reads)
        if reader is None or not is_op(reader.value, name):
            continue
        a, b = reader.value.args
        given = _per_channel(b if a.same_as(var) else a, static_shape(reader.var), channels)
        if given is None or static_shape(reader.var) != static_shape(var):
            continue
        values[:] = given
        found.append(reader)
        var = reader.var
    return scale, shift, found


def _per_channel(
    expr: relax.Expr, shape: tuple[int, ...] | None, channels: int
) -> np.ndarray | None:
    """A constant with a value per channel, or one for all, as it is broadcast to ``shape``."""
    value = constant(expr)
    if value is None or shape is None or value.ndim > len(shape):
        return None
    wide = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    if wide.shape[1] not in (1, channels) or wide.size != wide.shape[1]:
        return None
    return np.broadcast_to(wide.reshape(-1), (channels,)).astype("float32")


def _is_grouped(clip: relax.Var, x: relax.Var, result: relax.Var) -> bool:
    """Whether ``x`` has the groups of a clip, and the result is a clip again."""
    data, shape = static_shape(clip), known_shape(x)
    if data is None or len(data) != 5 or static_shape(result) != data:
        return False
    return shape[0] == data[0] and data[1] % shape[1] == 0


def _reads_alone(x: relax.Var, members: list[relax.VarBinding], reads: Reads) -> bool:
    mine = [member.var for member in members]
    return all(
        reader is not None and any(reader.var.same_as(each) for each in mine)
        for reader in reads.get(x, [])
    )
