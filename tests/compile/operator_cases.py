"""Operators with the attributes they may have: nodes that read x, p or v and give what is compared.

x: a clip (2, 6, 3, 5, 7); p: a picture (2, 6, 7, 9); v: a signal (2, 6, 11).
"""

from __future__ import annotations

import itertools

import numpy as np
from onnx import TensorProto, helper

from tests.compile.onnx_models import tensor, weights

INPUTS = {"x": (2, 6, 3, 5, 7), "p": (2, 6, 7, 9), "v": (2, 6, 11)}
RANKS = {"v": 1, "p": 2, "x": 3}


class Graph:
    """Collects cases: each is a node on an input, whose results are outputs of the model."""

    def __init__(self, opset: int) -> None:
        self.opset, self.nodes, self.constants, self.outputs = opset, [], [], []

    def add(self, op, source, *arrays, results=1, at=0, **attributes) -> None:
        """A node on ``source``, its operand number ``at``; None of arrays is an operand left out.

        A string of arrays is the name of another tensor.
        """
        names = [self.operand(array) for array in arrays]
        names.insert(at, source)
        outputs = [f"{op}_{len(self.outputs) + i}" for i in range(results)]
        self.nodes.append(helper.make_node(op, names, outputs, **attributes))
        self.outputs += outputs

    def between(self, op, *inputs, **attributes) -> str:
        """A node whose result is no output, only read by others: its name."""
        name = f"between_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def operand(self, array) -> str:
        """The name of a constant."""
        if array is None or isinstance(array, str):
            return array or ""
        self.constants.append(tensor(f"c{len(self.constants)}", array))
        return self.constants[-1].name

    def model(self):
        """One model of all cases."""
        graph = helper.make_graph(
            self.nodes,
            "cases",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in INPUTS.items()],
            [helper.make_empty_tensor_value_info(name) for name in self.outputs],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        made.ir_version = 10
        return made


def graph_of(family, opset: int) -> Graph:
    """All cases of a family."""
    graph = Graph(opset)
    family(graph)
    return graph


def int64(*values):
    return np.array(values, np.int64)


def f32(*values):
    return np.array(values, np.float32)


def conv_transpose(g: Graph) -> None:
    for source, strides in (("x", 1), ("x", 2), ("p", 2), ("x", 3), ("v", 3), ("x", 4), ("p", 4)):
        rank = RANKS[source]
        g.add("ConvTranspose", source, weights(6, 4, *[3] * rank), strides=[strides] * rank)
    for source in RANKS:
        rank, more = RANKS[source], {"strides": [2] * RANKS[source]}
        for groups in (2, 3, 6) if source == "x" else (RANKS[source] + 1,):
            w, b = weights(6, 2, *[3, 2, 4][:rank]), weights(2 * groups)
            g.add("ConvTranspose", source, w, b, group=groups, **more)
        w = weights(6, 2, *[3, 2, 4][:rank])
        pads = [1, 0, 2][:rank] + [0, 1, 1][:rank]
        g.add("ConvTranspose", source, w, pads=pads, output_padding=[1] * rank, **more)
        g.add("ConvTranspose", source, w, dilations=[2, 3, 1][:rank], **more)
        g.add("ConvTranspose", source, w, strides=[3, 1, 2][:rank], pads=pads)
        shape = [2 * s + 1 for s in INPUTS[source][2:]]
        g.add("ConvTranspose", source, w, output_shape=shape, **more)
        for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
            g.add("ConvTranspose", source, w, auto_pad=auto_pad, strides=[rank] * rank)
        g.add("ConvTranspose", source, w, output_shape=shape, auto_pad="SAME_UPPER", **more)
        g.add("ConvTranspose", source, w, kernel_shape=[3, 2, 4][:rank])


def convolutions(g: Graph) -> None:
    g.add("Conv", "v", weights(8, 6, 3), weights(8), pads=[1, 1], strides=[2])
    g.add("Conv", "v", weights(6, 1, 4), group=6, dilations=[2], pads=[2, 3])
    g.add("Conv", "v", weights(4, 3, 3), group=2, auto_pad="SAME_UPPER", strides=[2])
    g.add("Conv", "p", weights(4, 3, 3, 2), group=2, pads=[0, 1, 2, 1])
    for op in ("MaxPool", "AveragePool"):
        g.add(op, "v", kernel_shape=[3], strides=[2], pads=[1, 0])
        g.add(op, "v", kernel_shape=[2], strides=[2], ceil_mode=1)
        g.add(op, "v", kernel_shape=[4], auto_pad="SAME_LOWER")
    g.add("MaxPool", "v", kernel_shape=[3], dilations=[2])
    g.add("AveragePool", "v", kernel_shape=[3], pads=[2, 1], count_include_pad=1)
    for source in RANKS:
        g.add("GlobalMaxPool", source)
        g.add("GlobalAveragePool", source)


def normalisations(g: Graph) -> None:
    for source, epsilon in zip(RANKS, (1e-5, 0.1, 0.01), strict=True):
        g.add("InstanceNormalization", source, weights(6), weights(6), epsilon=epsilon)
    if g.opset >= 18:
        for source, groups in (("x", 1), ("p", 2), ("x", 3), ("v", 6)):
            size = groups if g.opset < 21 else 6
            scale, bias = weights(size), weights(size, seed=1)
            g.add("GroupNormalization", source, scale, bias, num_groups=groups, epsilon=0.01)
    if g.opset >= 17:
        for source, axis in (("x", -1), ("x", 1), ("x", -2), ("p", 2), ("v", -1), ("v", 0)):
            shape = INPUTS[source][axis:]
            bias = [weights(*shape)] if axis != 2 else []
            g.add("LayerNormalization", source, weights(*shape), *bias, axis=axis, epsilon=0.1)
    for source in RANKS:
        scale, bias, mean, var = (weights(6, seed=i) for i in range(4))
        g.add("BatchNormalization", source, scale, bias, mean, abs(var) + 0.1, epsilon=0.01)


def activations(g: Graph) -> None:
    for source in ("x", "v"):
        for op in ("Elu", "Selu", "Softplus", "Erf", "Exp"):
            g.add(op, source)
        g.add("Elu", source, alpha=0.3)
        g.add("Elu", source, alpha=-0.5)
        g.add("Selu", source, alpha=1.2, gamma=0.7)
        rank = RANKS[source]
        for shape in ((1,), (6, *[1] * rank), (1, 6, *[1] * rank), INPUTS[source][1:]):
            g.add("PRelu", source, weights(*shape))
        g.add("PRelu", source, weights(INPUTS[source][-1]))
        g.add("PRelu", source, f32(0.25).reshape(()))
        if g.opset >= 18:
            g.add("Mish", source)
        if g.opset >= 20:
            g.add("Gelu", source)
            g.add("Gelu", source, approximate="tanh")


def elementwise(g: Graph) -> None:
    g.nodes += [helper.make_node("Exp", ["x"], ["positive"])]
    for op in ("Log", "Sqrt", "Reciprocal"):
        g.add(op, "positive")
    for op in ("Abs", "Neg"):
        g.add(op, "x")
    for op in ("Max", "Min", "Sum"):
        g.add(op, "x", "positive", f32(0.5), weights(6, 1, 1, 1))
    for axis in (1, -1):
        g.add("LogSoftmax", "x", axis=axis)
    for op in ("Greater", "Less"):
        g.nodes.append(helper.make_node(op, ["x", "positive"], [f"{op}_than"]))
        g.add("Where", f"{op}_than", "x", "positive")
    for exponent in (f32(2), f32(0.5), f32(-1.5), f32(3).reshape(()), abs(weights(7))):
        g.add("Pow", "positive", exponent)
    g.add("Pow", "x", f32(3))
    g.add("Pow", "x", f32(2))
    g.add("Pow", "positive", int64(3))
    g.add("Pow", "positive", np.array([2], np.int32))
    g.add("Cast", "positive", to=TensorProto.INT64)
    g.add("Cast", "positive", to=TensorProto.INT32)
    g.add("Cast", "x", to=TensorProto.INT64)
    types = (TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32)
    for to in (*types, TensorProto.INT64):
        name = f"as_{to}"
        g.nodes.append(helper.make_node("Cast", ["x"], [name], to=to))
        g.add("Cast", name, to=TensorProto.FLOAT)
    g.nodes.append(helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64))
    for other in (int64(0), np.zeros((5, 1), np.int64), int64(1, 0, 0, 1, 0, 1, 0)):
        name = f"equal_{len(g.nodes)}"
        g.nodes.append(helper.make_node("Equal", ["whole", g.operand(other)], [name]))
        g.add("Cast", name, to=TensorProto.FLOAT)
        g.add("Where", name, "x", "positive")
        g.add("Where", name, "x", f32(-1.5))
        g.add("Where", name, weights(6, 1, 1, 1), weights(7))
    mask = weights(5, 7) > 0
    g.add("Where", "x", mask, f32(-np.inf).reshape(()), at=1)


def slices(g: Graph) -> None:
    most = 2**63 - 1
    rows = [
        ([1], [3], [1], None),
        ([0, -3], [most, most], [-2, -1], None),
        ([-1], [-most], [3], [-1]),
        ([0, 1], [5, 7], [3, 4], [2, 3]),
        ([6], [0], [4], [-2]),
        ([0, 0], [1, 100], None, None),
        ([-100], [100], [2], [1]),
    ]
    for starts, ends, axes, steps in rows:
        g.add(
            "Slice", "x", *(None if r is None else int64(*r) for r in (starts, ends, axes, steps))
        )
    for sizes, axis in (([2, 4], 1), ([1, 3, 2], -4), ([7], 4), ([1, 1], 0), ([1, 4], 3)):
        more = [int64(*sizes)] if g.opset >= 13 else []
        attributes = {} if g.opset >= 13 else {"split": sizes}
        g.add("Split", "x", *more, results=len(sizes), axis=axis, **attributes)
    for count, axis in ((2, 1), (3, -4), (2, 0)):
        more = {"num_outputs": count} if g.opset >= 18 else {}
        g.add("Split", "x", results=count, axis=axis, **more)
    if g.opset >= 18:
        g.add("Split", "x", results=2, axis=4, num_outputs=2)
        g.add("Split", "x", results=3, axis=4, num_outputs=3)
    for index, axis in (
        (int64(1).reshape(()), 2),
        (int64(-1).reshape(()), -1),
        (int64(0, 2), 2),
        (int64(-1, 0, -2), -2),
        (np.array([[1, 0], [-1, 2]], np.int32), 1),
        (np.array([[0]], np.int64), 0),
    ):
        g.add("Gather", "x", index, axis=axis)
    for depth in (1, 2):
        places = int64(*[[1, -1, 0][:depth], [0, 2, 1][:depth]])
        g.add("ScatterND", "x", places, weights(2, *INPUTS["x"][depth:]))
    g.add("ScatterND", "v", np.zeros((4, 6, 11), np.float32), int64([2], [0]), at=2)
    for shape in (int64(1), int64(3, 1, 1, 1, 1, 1), INPUTS["x"], (7,), (2, 1, 1, 5, 1)):
        g.add("Expand", "x", int64(*np.ravel(shape)))
    one = g.between("Slice", "x", *map(g.operand, (int64(0), int64(1), int64(3))))
    g.add("Expand", one, int64(4, 1))
    g.add("Expand", one, int64(2, 6, 3, 5, 7))
    for repeats in ((1, 2, 1, 3, 1), (2, 1, 1, 1, 2), (1, 1, 1, 1, 1)):
        g.add("Tile", "x", int64(*repeats))
    many = g.between("Expand", "p", g.operand(int64(4, 1, 1, 1, 1)))
    channels = g.between("Reshape", many, g.operand(int64(2, 24, 7, 9)))
    for size, mode in ((1, "CRD"), (2, "DCR"), (2, "CRD")):
        g.add("DepthToSpace", channels, blocksize=size, mode=mode)
    g.add("DepthToSpace", channels, blocksize=2)


def reductions(g: Graph) -> None:
    for op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceMean"):
        since = 13 if op == "ReduceSum" else 18
        for axes, keep in (
            ([2, 3, 4], 1),
            ([1], 0),
            ([-1, -3], 1),
            ([0, 1, 2, 3, 4], 0),
            (None, 1),
        ):
            if axes is None:
                g.add(op, "x", keepdims=keep)
            elif g.opset >= since:
                g.add(op, "x", int64(*axes), keepdims=keep)
            else:
                g.add(op, "x", axes=axes, keepdims=keep)
        if g.opset >= since:
            g.add(op, "x", noop_with_empty_axes=1)
            g.add(op, "x", int64(), keepdims=0)
    g.nodes += [
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
    ]
    for axis, keep in ((1, 1), (-1, 0), (3, 1), (0, 0)):
        g.add("ArgMax", "x", axis=axis, keepdims=keep)
        g.nodes.append(helper.make_node("Cast", ["whole"], [f"w{axis}"], to=TensorProto.FLOAT))
        g.add("ArgMax", f"w{axis}", axis=axis, keepdims=keep)  # with ties: the first is chosen
        if g.opset >= 12:
            g.add("ArgMax", f"w{axis}", axis=axis, keepdims=keep, select_last_index=1)
    for k, axis, largest in ((3, -1, 1), (2, 1, 0), (1, 3, 1), (7, 4, 0)):
        g.add("TopK", "x", int64(k), results=2, axis=axis, largest=largest, sorted=1)
    g.add("TopK", "x", int64(2), results=2)
    g.add("TopK", "w0", int64(4), results=2)


def einsums(g: Graph) -> None:
    m = weights(6, 4)
    for equation, *more in (
        ("bct,cd->bdt", m),
        ("bct,bcs->bts", "v"),
        ("bct->btc",),
        ("bct->b",),
        ("bct,bct->bc", "v"),
        ("bct,cd", m),
        ("...t->...",),
        ("b...,b...->b...", "v"),
        ("bct,c->bt", weights(6)),
        ("bii->bi", weights(3, 4, 4)),
    ):
        if equation == "bii->bi":
            g.nodes.append(
                helper.make_node(
                    "Einsum", ["v", "v"], [f"q{len(g.nodes)}"], equation="bct,bds->bcd"
                )
            )
            g.add("Einsum", g.nodes[-1].output[0], equation=equation)
        else:
            g.add("Einsum", "v", *more, equation=equation)


def resizes(g: Graph) -> None:
    empty = np.zeros(0, np.float32)
    nothing = empty if g.opset < 13 else None  # operands cannot be left out before
    coordinates = ["align_corners", "half_pixel", "asymmetric", "pytorch_half_pixel"]
    if g.opset >= 19:
        coordinates.append("half_pixel_symmetric")
    scales = itertools.cycle(([2.0] * 3, [1.5, 2.6, 0.7], [0.5, 3.0, 1.0]))
    sizes = itertools.cycle(([5, 3, 11], [6, 14, 18], [1, 4, 2], [3, 21, 9]))
    for way, source, mode in itertools.product(coordinates, RANKS, ("nearest", "linear", "cubic")):
        rank = RANKS[source]
        if mode == "cubic" and rank != 2:
            continue  # ONNX Runtime has it of pictures only
        more = {"mode": mode, "coordinate_transformation_mode": way}
        if len(g.outputs) % 2:
            g.add("Resize", source, empty, f32(1, 1, *next(scales)[:rank]), **more)
        else:
            shape = (*INPUTS[source][:2], *next(sizes)[:rank])
            g.add("Resize", source, nothing, nothing, int64(*shape), **more)
    roundings = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    for rounding, scale in itertools.product(roundings, (1.7, 0.6)):
        way = coordinates[int(10 * scale) % len(coordinates)]
        more = {"nearest_mode": rounding, "coordinate_transformation_mode": way}
        g.add("Resize", "p", empty, f32(1, 1, scale, scale), mode="nearest", **more)
    more = {"mode": "cubic", "cubic_coeff_a": -0.5}
    g.add("Resize", "p", empty, f32(1, 1, 2.0, 3.0), **more)
    g.add("Resize", "p", empty, f32(1, 1, 2.0, 1.4), exclude_outside=1, **more)
    if g.opset >= 18:
        g.add("Resize", "p", None, f32(2.0, 0.5), axes=[2, 3], mode="linear")
        g.add("Resize", "p", None, None, int64(12, 11), axes=[3, 2], mode="nearest")
        g.add("Resize", "p", None, f32(1, 1, 0.4, 0.6), mode="linear", antialias=1)
        g.add("Resize", "p", None, f32(1, 1, 0.15, 0.2), mode="cubic", antialias=1)


FAMILIES = {
    f.__name__: f
    for f in (
        resizes,
        conv_transpose,
        convolutions,
        normalisations,
        activations,
        elementwise,
        slices,
        reductions,
        einsums,
    )
}
