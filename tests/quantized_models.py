"""Small networks quantised by onnxruntime: what its users have."""

import logging
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from rt3d_tvm.artifact.verify import reference_session

SHAPE = (1, 3, 4, 16, 16)
TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


class _Layers:
    """Nodes on ``axes`` axes, the last of three, and constants."""

    def __init__(self, axes: int) -> None:
        self.axes, self.rng = axes, np.random.default_rng(0)
        self.constants: list[onnx.TensorProto] = []

    def weight(self, name: str, filters: int, channels: int, *window: int) -> list[str]:
        window = window[-self.axes :]
        shape, rng = (filters, channels, *window), self.rng
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        if channels > 1:
            values *= rng.random((filters, channels, *(1,) * len(window))) < 0.6
        bias = rng.standard_normal(filters) / 10
        for part, value in ((f"{name}.weight", values), (f"{name}.bias", bias)):
            self.constants.append(numpy_helper.from_array(value.astype("float32"), part))
        return [f"{name}.weight", f"{name}.bias"]

    def conv(
        self, x: str, y: str, name: str, filters: int, channels: int, *window: int, step=1, group=1
    ):
        """channels: those that a filter sees."""
        return helper.make_node(
            "Conv",
            [x, *self.weight(name, filters, channels, *window)],
            [y],
            name,
            pads=[*(k // 2 for k in window[-self.axes :])] * 2,
            strides=[1, step, step][-self.axes :],
            group=group,
        )

    def pool(self, op: str, x: str, y: str):
        return helper.make_node(op, [x], [y], kernel_shape=[2] * self.axes, strides=[2] * self.axes)

    def model(self, nodes) -> onnx.ModelProto:
        # A matrix has no window.
        shape = SHAPE if self.axes == 3 else SHAPE[:2] + SHAPE[3:]
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, each)
            for name, each in (("x", shape), ("y", (1, 10)))
        ]
        graph = helper.make_graph(nodes, "net", values[:1], values[1:], self.constants)
        opset = helper.make_opsetid("", 18)
        return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def net(axes: int) -> onnx.ModelProto:
    """A stem, a factored pair, a residual, pools, a concat, a mean and a classifier."""
    layers = _Layers(axes)
    conv, pool = layers.conv, layers.pool
    nodes = [
        conv("x", "s0", "stem", 32, 3, 3, 3, 3),
        helper.make_node("Relu", ["s0"], ["s"]),
        conv("s", "a0", "a", 21, 32, 1, 3, 3, step=2),
        helper.make_node("Relu", ["a0"], ["a1"]),
        conv("a1", "b1", "b", 45, 21, 3, 1, 1),
        conv("s", "short", "short", 45, 32, 1, 1, 1, step=2),
        helper.make_node("Add", ["b1", "short"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["r"]),
        conv("r", "c0", "c", 24, 45, 3, 3, 3),
        # With a zero point of 0, onnxruntime rounds a mean to the even step, as ONNX says; else it
        # adds the zero point before it rounds.
        helper.make_node("Relu", ["c0"], ["c1"]),
        pool("MaxPool", "c1", "p"),
        pool("AveragePool", "c1", "q"),
        helper.make_node("Concat", ["p", "q"], ["k"], axis=1),
        helper.make_node("GlobalAveragePool", ["k"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", *layers.weight("fc", 10, 48)], ["y"], "fc", transB=1),
    ]
    return layers.model(nodes)


def separable_net(axes: int) -> onnx.ModelProto:
    """Inverted residuals as in MobileNet: 1x1, depthwise, 1x1; and a convolution in 3 groups."""
    layers = _Layers(axes)
    conv = layers.conv
    layers.constants += [
        numpy_helper.from_array(np.float32(bound), name)
        for name, bound in (("low", 0), ("high", 6))
    ]

    def clip(x: str, y: str):
        return helper.make_node("Clip", [x, "low", "high"], [y])

    nodes = [
        conv("x", "s0", "stem", 21, 3, 3, 3, 3),
        clip("s0", "s"),
        conv("s", "a0", "a", 21, 1, 3, 3, 3, step=2, group=21),
        clip("a0", "a1"),
        conv("a1", "b", "b", 12, 21, 1, 1, 1),
        conv("b", "c0", "c", 45, 12, 1, 1, 1),
        clip("c0", "c1"),
        conv("c1", "d0", "d", 45, 1, 1, 5, 5, group=45),
        clip("d0", "d1"),
        conv("d1", "e", "e", 12, 45, 1, 1, 1),
        helper.make_node("Add", ["b", "e"], ["f"]),
        conv("f", "g0", "g", 24, 4, 3, 3, 3, group=3),
        clip("g0", "g1"),
        helper.make_node("GlobalAveragePool", ["g1"], ["h"]),
        helper.make_node("Flatten", ["h"], ["i"]),
        helper.make_node("Gemm", ["i", *layers.weight("fc", 10, 24)], ["y"], "fc", transB=1),
    ]
    return layers.model(nodes)


class _Clips(CalibrationDataReader):
    def __init__(self, shape):
        rng = np.random.default_rng(7)
        self._clips = iter([{"x": rng.standard_normal(shape, dtype="float32")} for _ in range(4)])

    def get_next(self):
        return next(self._clips, None)


def quantized_by_onnxruntime(
    folder, model, *, format="QDQ", activations="uint8", per_channel=True, exclude=()
):
    """The file that its static quantisation writes."""
    onnx.save(model, folder / "real.onnx")
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    path, level = folder / f"{format}-{activations}.onnx", logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        quantize_static(
            folder / "real.onnx",
            path,
            _Clips(shape),
            quant_format=QuantFormat[format],
            activation_type=TYPES[activations],
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            nodes_to_exclude=list(exclude),
        )
    finally:
        logging.getLogger().setLevel(level)
    return path


def run_by_onnxruntime(path, x):
    """The output for x, on integers as its optimised graph computes them."""
    session = reference_session(Path(path), optimised=True)
    return session.run(None, {session.get_inputs()[0].name: x})[0]
