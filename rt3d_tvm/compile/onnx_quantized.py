"""Quantised ONNX: operators on 8-bit tensors written as plain ones between conversions.

ONNX has two ways to say the same: plain operators between DequantizeLinear and QuantizeLinear
("QDQ"), and operators of their own (QLinearConv, onnxruntime's QLinearAdd ...). What follows knows
the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.compile.onnx_file import label_of
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    import onnx

_MICROSOFT = "com.microsoft"
# Since this opset DequantizeLinear has an axis.
_AXIS_OPSET = 13


def write_as_qdq(model: onnx.ModelProto, path: Path) -> None:
    """Write every operator on 8-bit tensors as a plain one between conversions, in place.

    InputError for one whose scales are no constants of the file.
    """
    if not any(_known(node) for node in model.graph.node):
        return
    writer = _Writer(model, path)
    nodes = []
    for node in model.graph.node:
        nodes += writer.written(node) if _known(node) else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if not any(node.domain == _MICROSOFT for node in nodes):
        others = [entry for entry in model.opset_import if entry.domain != _MICROSOFT]
        del model.opset_import[:]
        model.opset_import.extend(others)


def constant_tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Every constant of a file by its name: initializers, what a Constant holds, their copies."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
        elif node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def _known(node: onnx.NodeProto) -> bool:
    return (node.domain in ("", "ai.onnx") and node.op_type in _STANDARD) or (
        node.domain == _MICROSOFT and node.op_type in _OF_ONNXRUNTIME
    )


class _Writer:
    """Writes nodes; new constants go into the model."""

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        self._graph, self.path = model.graph, path
        versions = [e.version for e in model.opset_import if e.domain in ("", "ai.onnx")]
        self._opset = versions[0] if versions else 0
        self._constants = constant_tensors(model)
        self._used = {name for node in model.graph.node for name in (*node.input, *node.output)}
        self._used.update(self._constants)

    def written(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that come in place of one; InputError where it has too few inputs."""
        least = _LEAST_INPUTS[node.op_type]
        spare = node.op_type == "QLinearConcat" and (len(node.input) - 2) % 3
        if len(node.input) < least or spare or not node.output:
            raise InputError(
                f"{self.path}: node {label_of(node)}: {node.op_type} with {len(node.input)} inputs "
                f"and {len(node.output)} outputs is not accepted; {least} or more and one are"
            )
        inputs = [*node.input, *[""] * 9]
        return _FORMS[node.op_type](self, node, inputs)

    def dequantized(
        self, value: str, scale: str, zero: str, *, axis: int = 0
    ) -> tuple[str, list[onnx.NodeProto]]:
        """The name of the real value, and what computes it."""
        import onnx

        name = self.new(f"{value}_real")
        per_axis = scale in self._constants and self.value(scale).size > 1
        if per_axis and self._opset < _AXIS_OPSET:
            return name, self._cast_and_scaled(value, scale, name, axis=axis)
        inputs = [value, scale, *([zero] if zero else [])]
        more = {"axis": axis} if per_axis else {}
        return name, [onnx.helper.make_node("DequantizeLinear", inputs, [name], **more)]

    def _cast_and_scaled(
        self, value: str, scale: str, name: str, *, axis: int
    ) -> list[onnx.NodeProto]:
        """A constant with a scale for each filter, without the operator that knows of axes."""
        import onnx

        shape = [1] * self.value(value).ndim
        shape[axis] = -1
        real, factors = self.new(f"{value}_cast"), self.value(scale).reshape(shape)
        return [
            onnx.helper.make_node("Cast", [value], [real], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Mul", [real, self.constant(scale, factors)], [name]),
        ]

    def quantized(self, value: str, scale: str, zero: str, output: str) -> onnx.NodeProto:
        """The node that gives the 8-bit output."""
        import onnx

        inputs = [value, scale, *([zero] if zero else [])]
        return onnx.helper.make_node("QuantizeLinear", inputs, [output])

    def constant(self, stem: str, value: np.ndarray) -> str:
        """The name of a new constant."""
        import onnx

        name = self.new(stem)
        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        self._graph.initializer.append(tensor)
        self._constants[name] = tensor
        return name

    def value(self, name: str) -> np.ndarray:
        """The value of a constant; InputError where it is none."""
        import onnx

        if name not in self._constants:
            raise InputError(
                f"{self.path}: scale {name!r} is not a constant of the file; constant scales are "
                "accepted"
            )
        return onnx.numpy_helper.to_array(self._constants[name])

    def new(self, stem: str) -> str:
        """A name that nothing has."""
        name, number = stem, 0
        while name in self._used:
            number += 1
            name = f"{stem}_{number}"
        self._used.add(name)
        return name


def _plain(
    node: onnx.NodeProto,
    op: str,
    inputs: Sequence[str],
    output: str,
    *,
    without: Sequence[str] = (),
) -> onnx.NodeProto:
    import onnx

    plain = onnx.helper.make_node(op, list(inputs), [output], node.name)
    plain.attribute.extend(a for a in node.attribute if a.name not in without)
    return plain


def _conv(writer: _Writer, node: onnx.NodeProto, inputs: list[str]) -> list[onnx.NodeProto]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = inputs[:9]
    real_x, before = writer.dequantized(x, x_scale, x_zero)
    real_w, more = writer.dequantized(w, w_scale, w_zero)
    operands, nodes = [real_x, real_w], [*before, *more]
    if bias:
        real, more = _bias(writer, bias, x_scale, w_scale)
        operands.append(real)
        nodes += more
    result = writer.new(f"{node.output[0]}_real")
    # Layers are named after their weights.
    plain = _plain(node, "Conv", operands, result, without=("channels_last",))
    return [*nodes, plain, writer.quantized(result, y_scale, y_zero, node.output[0])]


def _bias(
    writer: _Writer, bias: str, x_scale: str, w_scale: str
) -> tuple[str, list[onnx.NodeProto]]:
    scales = writer.value(x_scale), writer.value(w_scale)
    if min(scale.size for scale in scales) != 1:
        raise InputError(f"{writer.path}: a bias {bias!r} of two tensors with several scales each")
    product = (scales[0].reshape(-1)[0] * scales[1]).astype("float32")
    return writer.dequantized(bias, writer.constant(f"{bias}_scale", product), "")


def _matmul(writer: _Writer, node: onnx.NodeProto, inputs: list[str]) -> list[onnx.NodeProto]:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs[:8]
    real_a, before = writer.dequantized(a, a_scale, a_zero)
    real_b, more = writer.dequantized(b, b_scale, b_zero, axis=-1)
    result = writer.new(f"{node.output[0]}_real")
    plain = _plain(node, "MatMul", [real_a, real_b], result)
    return [*before, *more, plain, writer.quantized(result, y_scale, y_zero, node.output[0])]


def _gemm(writer: _Writer, node: onnx.NodeProto, inputs: list[str]) -> list[onnx.NodeProto]:
    a, a_scale, a_zero, b, b_scale, b_zero, bias, y_scale, y_zero = inputs[:9]
    transposed = any(each.name == "transB" and each.i for each in node.attribute)
    real_a, before = writer.dequantized(a, a_scale, a_zero)
    real_b, more = writer.dequantized(b, b_scale, b_zero, axis=0 if transposed else 1)
    operands, nodes = [real_a, real_b], [*before, *more]
    if bias:
        real, more = _bias(writer, bias, a_scale, b_scale)
        operands.append(real)
        nodes += more
    if not y_scale:
        return [*nodes, _plain(node, "Gemm", operands, node.output[0])]
    result = writer.new(f"{node.output[0]}_real")
    plain = _plain(node, "Gemm", operands, result)
    return [*nodes, plain, writer.quantized(result, y_scale, y_zero, node.output[0])]


def _elementwise(op: str, count: int) -> Callable[..., list[onnx.NodeProto]]:
    """An operator on ``count`` tensors, each with its scale and zero point."""

    def form(writer: _Writer, node: onnx.NodeProto, inputs: list[str]) -> list[onnx.NodeProto]:
        operands, nodes = [], []
        for first in range(0, 3 * count, 3):
            real, more = writer.dequantized(*inputs[first : first + 3])
            operands.append(real)
            nodes += more
        result = writer.new(f"{node.output[0]}_real")
        plain = _plain(node, op, operands, result, without=("channels_last",))
        scale, zero = inputs[3 * count : 3 * count + 2]
        return [*nodes, plain, writer.quantized(result, scale, zero, node.output[0])]

    return form


def _concat(writer: _Writer, node: onnx.NodeProto, _: list[str]) -> list[onnx.NodeProto]:
    scale, zero, *rest = node.input
    operands, nodes = [], []
    for first in range(0, len(rest), 3):
        real, more = writer.dequantized(*rest[first : first + 3])
        operands.append(real)
        nodes += more
    result = writer.new(f"{node.output[0]}_real")
    plain = _plain(node, "Concat", operands, result)
    return [*nodes, plain, writer.quantized(result, scale, zero, node.output[0])]


_STANDARD = ("QLinearConv", "QLinearMatMul")
_OF_ONNXRUNTIME = (
    *("QGemm", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearAveragePool"),
    *("QLinearGlobalAveragePool", "QLinearSigmoid", "QLinearLeakyRelu"),
)
_LEAST_INPUTS = {
    "QLinearConv": 8,
    "QLinearMatMul": 8,
    "QGemm": 6,
    "QLinearAdd": 7,
    "QLinearMul": 7,
    "QLinearConcat": 5,
    "QLinearAveragePool": 4,
    "QLinearGlobalAveragePool": 5,
    "QLinearSigmoid": 4,
    "QLinearLeakyRelu": 4,
}
_FORMS: dict[str, Callable[..., list[onnx.NodeProto]]] = {
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QGemm": _gemm,
    "QLinearAdd": _elementwise("Add", 2),
    "QLinearMul": _elementwise("Mul", 2),
    "QLinearConcat": _concat,
    "QLinearAveragePool": _elementwise("AveragePool", 1),
    "QLinearGlobalAveragePool": _elementwise("GlobalAveragePool", 1),
    "QLinearSigmoid": _elementwise("Sigmoid", 1),
    "QLinearLeakyRelu": _elementwise("LeakyRelu", 1),
}
