"""A layer between dequantised and quantised values, and what follows it that its kernel does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from tvm import relax

from rt3d_tvm.compile.ir.conv_chain import is_depthwise, ungrouped
from rt3d_tvm.compile.ir.dataflow import (
    EIGHT_BIT,
    bindings,
    constant,
    dtype_of,
    ints,
    is_op,
    known_shape,
    only_reader,
    scale_and_zero,
    static_shape,
)
from rt3d_tvm.compile.ir.stored_weight import beyond_int8, centred
from rt3d_tvm.compile.kernels.quantized import Quantization, QuantizedConvolution

CONVOLUTIONS = {"relax.nn.conv1d": 1, "relax.nn.conv2d": 2, "relax.nn.conv3d": 3}
# Layers as well, which have no kernel of 8 bit.
TRANSPOSED_CONVOLUTIONS = tuple(f"{name}_transpose" for name in CONVOLUTIONS)
_PLAIN = {1: ("NCW", "OIW"), 2: ("NCHW", "OIHW"), 3: ("NCDHW", "OIDHW")}


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedChain:
    """A layer and what is fused behind it: the bindings, and the 8-bit values that are read."""

    bindings: tuple[relax.VarBinding, ...]
    convolution: QuantizedConvolution
    x: relax.Var
    residual: relax.Var | None


@dataclass(kw_only=True)
class _Sum:
    """What becomes of a layer's sum up to where it is quantised."""

    bias: np.ndarray | None = None
    relu: bool = False
    ceiling: float | None = None
    y: Quantization | None = None
    bindings: list[relax.VarBinding] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Added:
    """A residual: the 8-bit value, what it stands for, and the sum with it."""

    var: relax.Var
    quantization: Quantization
    total: _Sum


class QuantizedChains:
    """The chains of a function; what one has claimed no other takes."""

    def __init__(
        self,
        function: relax.Function,
        reads: dict[relax.Var, list[relax.VarBinding | None]],
    ) -> None:
        self._bound = {binding.var: binding.value for binding in bindings(function)}
        self._reads = reads
        # What depends on constants alone, and will be folded.
        self._constant: set[relax.Var] = set()
        for binding in bindings(function):
            if self._constant.issuperset(relax.analysis.free_vars(binding.value)):
                self._constant.add(binding.var)
        self._claimed: set[relax.Var] = set()

    def is_layer(self, expr: relax.Expr) -> bool:
        """Whether it is a convolution, or a product of a matrix and a constant one."""
        if any(is_op(expr, name) for name in CONVOLUTIONS):
            return True
        if not is_op(expr, "relax.matmul"):
            return False
        weight = expr.args[1]
        is_constant = constant(weight) is not None or weight in self._constant
        return is_constant and all(len(static_shape(arg) or ()) == 2 for arg in expr.args)

    def claim(self, chain: QuantizedChain) -> None:
        """Take the chain's bindings from all others."""
        self._claimed.update(binding.var for binding in chain.bindings)

    def why_real(self, layer: relax.VarBinding) -> str | None:
        """Why a layer that has 8-bit tensors is none of them all; None where it has none."""
        data, weight = layer.value.args
        x = self._data(data)
        dequantized = self._bound.get(weight)
        stored = dequantized is not None and is_op(dequantized, "relax.dequantize")
        if x is None:
            return "its weight is quantised, and not what it reads" if stored else None
        if dequantized is not None and (span := beyond_int8(dequantized)) is not None:
            return (
                f"its weight less its zero point is from {span[0]} to {span[1]}; what fits int8, "
                "-128 to 127, has an 8-bit kernel"
            )
        return "its weight is not one of 8 bits with a scale for each filter"

    def chain_from(self, layer: relax.VarBinding) -> QuantizedChain | None:
        """The chain that begins with a layer; None where that is not one of 8-bit tensors."""
        call = layer.value
        x, weight = self._data(call.args[0]), self._weight(call)
        if x is None or weight is None or static_shape(call.args[0]) is None:
            return None
        found = _Sum(bindings=[layer])
        self._follow(found, width=weight[0].shape[0])
        added = self._added(found) if found.y is not None else None
        total = found if added is None else added.total
        values, scales = weight
        return QuantizedChain(
            bindings=tuple(total.bindings),
            convolution=QuantizedConvolution(
                **_geometry(call, known_shape(layer.var)),
                weight=values,
                scales=scales,
                bias=found.bias,
                x=x[1],
                y=total.y,
                relu=total.relu,
                ceiling=total.ceiling,
                between=None if added is None else found.y,
                residual=None if added is None else added.quantization,
                inner_relu=added is not None and found.relu,
                inner_ceiling=None if added is None else found.ceiling,
                depthwise=is_depthwise(values, conv_groups(call)),
            ),
            x=x[0],
            residual=None if added is None else added.var,
        )

    def _follow(self, found: _Sum, *, width: int | None) -> None:
        """Follow the only reader of each value up to a quantisation; no bias without ``width``."""
        while found.y is None:
            var = found.bindings[-1].var
            reader = only_reader(var, self._reads)
            if reader is None or reader.var in self._claimed:
                return
            call = reader.value
            bias = None
            if is_op(call, "relax.add") and width and not found.relu:
                bias = self._bias(call, var, width)
            if bias is not None:
                found.bias = bias if found.bias is None else found.bias + bias
            elif is_op(call, "relax.nn.relu") and found.ceiling is None:
                found.relu = True
            elif is_op(call, "relax.minimum") and found.relu and found.ceiling is None:
                bound = constant(call.args[1])
                if bound is None or bound.size != 1:
                    return
                found.ceiling = float(bound.reshape(-1)[0])
            elif is_op(call, "relax.quantize"):
                found.y = _quantization(call)
                if found.y is None or dtype_of(reader.var) not in EIGHT_BIT:
                    found.y = None
                    return
            else:
                return
            found.bindings.append(reader)

    def _added(self, found: _Sum) -> _Added | None:
        """What is added to a quantised layer before it is quantised again, or None."""
        again = only_reader(found.bindings[-1].var, self._reads)
        if again is None or not is_op(again.value, "relax.dequantize"):
            return None
        reader = only_reader(again.var, self._reads)
        if reader is None or not is_op(reader.value, "relax.add"):
            return None
        if {again.var, reader.var} & self._claimed:
            return None
        left, right = reader.value.args
        other = self._quantized(right if left.same_as(again.var) else left)
        if other is None or static_shape(left) != static_shape(right):
            return None
        total = _Sum(bindings=[*found.bindings, again, reader])
        self._follow(total, width=None)
        if total.y is None:
            return None
        return _Added(var=other[0], quantization=other[1], total=total)

    def _quantized(self, expr: relax.Expr) -> tuple[relax.Var, Quantization] | None:
        """The 8-bit variable that a value is dequantised from, and what it stands for."""
        call = self._bound.get(expr)
        if call is None or not is_op(call, "relax.dequantize"):
            return None
        if not isinstance(call.args[0], relax.Var) or dtype_of(call.args[0]) not in EIGHT_BIT:
            return None
        found = _quantization(call)
        return None if found is None else (call.args[0], found)

    def _data(self, expr: relax.Expr) -> tuple[relax.Var, Quantization] | None:
        """The same of what a layer reads, which may be multiplied by a number: a Gemm's alpha."""
        call = self._bound.get(expr)
        if call is None or not is_op(call, "relax.multiply"):
            return self._quantized(expr)
        found, factor = self._quantized(call.args[0]), constant(call.args[1])
        if found is None or factor is None or factor.size != 1 or not 0 < factor < np.inf:
            return None
        return found[0], replace(found[1], scale=found[1].scale * float(factor.item()))

    def _weight(self, call: relax.Call) -> tuple[np.ndarray, np.ndarray] | None:
        """The weight as int8 (M, N, KD, KH, KW), and the scale of each filter.

        N is 1 where each filter has a channel to itself; other groups are written out, with zeros.
        """
        found = self._stored_weight(call.args[1])
        if found is None:
            return None
        values, scales = found
        if is_op(call, "relax.matmul"):
            values, scales = values.T[:, :, None, None, None], scales.T
        else:
            rank = CONVOLUTIONS[call.op.name]
            layouts = (call.attrs.data_layout, call.attrs.kernel_layout)
            if rank == 1 or layouts != _PLAIN[rank]:
                return None
            groups = conv_groups(call)
            if groups > 1 and not is_depthwise(values, groups):
                values = ungrouped(values, groups)
            values = values.reshape(*values.shape[:2], *(1,) * (3 - rank), *values.shape[2:])
        filters = values.shape[0]
        if scales.size != 1 and not scales.size == scales.shape[0] == filters:
            return None  # one scale for each channel: no factor of a sum
        return np.ascontiguousarray(values), np.broadcast_to(scales.reshape(-1), (filters,))

    def _stored_weight(self, expr: relax.Expr) -> tuple[np.ndarray, np.ndarray] | None:
        """A constant less its zero point, as int8, and its scales with as many axes; or None."""
        call = self._bound.get(expr)
        if call is None:
            return None
        if is_op(call, "relax.permute_dims"):
            found = self._stored_weight(call.args[0])
            axes = call.attrs.axes
            order = None if axes is None else [int(axis) for axis in axes]
            if found is None:
                return None
            return np.transpose(found[0], order), np.transpose(found[1], order)
        if is_op(call, "relax.multiply"):
            return self._scaled_weight(call)
        if not is_op(call, "relax.dequantize"):
            return None
        values, scale, zero = map(constant, call.args)
        if values is None or scale is None or zero is None or str(values.dtype) not in EIGHT_BIT:
            return None
        if beyond_int8(call) is not None:
            return None
        shape = [1] * values.ndim
        if scale.size > 1:
            shape[int(call.attrs.axis) % values.ndim] = scale.size
        return centred(call).astype("int8"), scale.reshape(shape)

    def _scaled_weight(self, call: relax.Call) -> tuple[np.ndarray, np.ndarray] | None:
        """The same of a constant that is cast and multiplied by its scales."""
        cast, scale = self._bound.get(call.args[0]), constant(call.args[1])
        if cast is None or scale is None or not is_op(cast, "relax.astype"):
            return None
        values = constant(cast.args[0])
        if values is None or str(values.dtype) != "int8" or scale.ndim != values.ndim:
            return None
        return values, scale

    def _bias(self, call: relax.Call, var: relax.Var, width: int) -> np.ndarray | None:
        """What an addition adds to each filter, float64; None where it adds something else."""
        left, right = call.args
        value = self._real(right if left.same_as(var) else left)
        if value is None:
            return None
        rank = len(static_shape(var) or ())
        shape = (1,) * (rank - value.ndim) + value.shape
        per_filter = [1] * rank
        per_filter[1] = width
        return value.reshape(-1) if list(shape) == per_filter else None

    def _real(self, expr: relax.Expr) -> np.ndarray | None:
        """The value of a constant, dequantised and reshaped as the graph says; or None."""
        value = constant(expr)
        if value is not None:
            return value.astype("float64")
        call = self._bound.get(expr)
        if not isinstance(call, relax.Call):
            return None
        if is_op(call, "relax.multiply") or is_op(call, "relax.astype"):
            parts = [part for part in map(self._real, call.args) if part is not None]
            if len(parts) < len(call.args):
                return None
            return parts[0] if len(parts) == 1 else parts[0] * parts[1]
        if any(is_op(call, f"relax.{name}") for name in ("reshape", "expand_dims", "squeeze")):
            inner, shape = self._real(call.args[0]), static_shape(call)
            return None if inner is None or shape is None else inner.reshape(shape)
        if not is_op(call, "relax.dequantize"):
            return None
        stored, scale, zero = map(constant, call.args)
        if stored is None or scale is None or zero is None:
            return None
        along = [1] * stored.ndim
        if max(scale.size, zero.size) > 1:
            along[int(call.attrs.axis) % stored.ndim] = -1
        scale, zero = (each.astype("float64").reshape(along) for each in (scale, zero))
        return (stored.astype("float64") - zero) * scale


def conv_groups(call: relax.Call) -> int:
    """The groups of a convolution; a matrix is one."""
    return 1 if is_op(call, "relax.matmul") else int(call.attrs.groups)


def _quantization(call: relax.Call) -> Quantization | None:
    """The scale and zero point of a call, where each is one constant number."""
    numbers = scale_and_zero(call)
    return None if numbers is None else Quantization(scale=numbers[0], zero=numbers[1])


def _geometry(call: relax.Call, out: tuple[int, ...]) -> dict:
    """The fields of a convolution along three axes; a matrix is one position."""
    data = known_shape(call.args[0])
    if is_op(call, "relax.matmul"):
        plain = {"stride": (1,) * 3, "padding": (0,) * 6, "dilation": (1,) * 3}
        return {"data": (*data, 1, 1, 1), "out": (*out, 1, 1, 1), **plain}
    missing = 3 - CONVOLUTIONS[call.op.name]

    def along(value: int, *halves: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(each for half in halves for each in (*(value,) * missing, *half))

    padding = ints(call.attrs.padding)
    half = len(padding) // 2
    return {
        "data": (*data[:2], *(1,) * missing, *data[2:]),
        "out": (*out[:2], *(1,) * missing, *out[2:]),
        "stride": along(1, ints(call.attrs.strides)),
        "padding": along(0, padding[:half], padding[half:]),
        "dilation": along(1, ints(call.attrs.dilation)),
    }
