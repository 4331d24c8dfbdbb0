"""Damage to ONNX models: what is true of a file's structure is changed at one place or two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper

from scripts.fuzz.bombs import bombed

INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    (1 << 63) - 1,
    -(1 << 63),
)
FLOATS = (0.0, -1.0, 1e-40, 1e38, float("inf"), float("-inf"), float("nan"))
NAMES = (
    *("", "x", "y", " ", "a" * 5000, "..", "/etc/passwd", "naïve", "\u202e", "\n", "{0}", "%s"),
    *("main", "artifact_id", "lv", "x.weight", "onnx::Conv_1"),
)
OPS = (
    *("Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "Div", "Dropout"),
    *("Flatten", "Gemm", "GlobalAveragePool", "HardSigmoid", "HardSwish", "LeakyRelu", "MatMul"),
    *("MaxPool", "Mul", "Pad", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Softmax", "Squeeze"),
    *("Transpose", "Unsqueeze", "ConstantOfShape", "Expand", "Tile", "Shape", "Gather", "Loop"),
    *("If", "Cast", "Resize", "QLinearConv", "NoSuchOp"),
)
ATTRIBUTES = (
    *("auto_pad", "ceil_mode", "axis", "axes", "keepdims", "group", "kernel_shape", "pads"),
    *("strides", "dilations", "alpha", "transA", "mode", "storage_order", "perm", "allowzero"),
    *("training_mode", "unknown"),
)


# How many files ask for gigabytes.
BOMBS = 0.05


def damaged(rng: Random, model: onnx.ModelProto, folder: Path) -> bytes:
    """The bytes of a damaged file; files that it names lie in ``folder``."""
    if rng.random() < BOMBS:
        bombed(rng, model)
    mutations = list(_STRUCTURE)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if model.graph.node:
            rng.choice(mutations)(rng, model, folder)
    data = model.SerializeToString()
    return cut_or_flipped(rng, data) if rng.random() < 0.2 else data


def cut_or_flipped(rng: Random, data: bytes) -> bytes:
    """The bytes with some gone, changed or added."""
    data = data or b"\0"
    kind, at = (
        rng.choice(("cut", "flip", "flip", "remove", "insert", "repeat")),
        rng.randrange(len(data)),
    )
    if rng.random() < 0.5:  # where the structure is more likely to be than weights
        at = rng.choice((at % 200, len(data) - 1 - at % 200)) % len(data)
    size = rng.choice((1, 2, 8, 100))
    if kind == "cut":
        return data[:at]
    if kind == "flip":
        changed = bytearray(data)
        for place in range(at, min(at + size, len(data))):
            changed[place] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == "remove":
        return data[:at] + data[at + size :]
    inserted = rng.randbytes(size) if kind == "insert" else data[at : at + size] * 2
    return data[:at] + inserted + data[at:]


def _attribute(rng: Random, model: onnx.ModelProto, _: Path) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return
    node = rng.choice(nodes)
    attribute = rng.choice(node.attribute)
    kind = rng.choice(("value", "value", "value", "type", "name", "remove", "twice", "length"))
    if kind == "value" and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(INTEGERS)
    elif kind == "value":
        attribute.i, attribute.f = rng.choice(INTEGERS), rng.choice(FLOATS)
    elif kind == "type":
        attribute.type = rng.choice(list(onnx.AttributeProto.AttributeType.values()))
    elif kind == "name":
        attribute.name = rng.choice((*NAMES, "pads", "strides", "axis", "auto_pad", "group"))
    elif kind == "remove":
        node.attribute.remove(attribute)
    elif kind == "twice":
        node.attribute.add().CopyFrom(attribute)
    else:
        attribute.ints.extend(rng.choice(INTEGERS) for _ in range(rng.choice((1, 3, 1000))))


def _new_attribute(rng: Random, model: onnx.ModelProto, _: Path) -> None:
    value = rng.choice(
        (rng.choice(INTEGERS), rng.choice(FLOATS), "SAME_UPPER", b"\xff\xfe", [1, 2], "wrap")
    )
    name = rng.choice(ATTRIBUTES)
    rng.choice(model.graph.node).attribute.append(helper.make_attribute(name, value))


def _tensor(rng: Random, model: onnx.ModelProto, _: Path) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    kind = rng.choice(("dim", "dim", "rank", "type", "cut", "none", "values", "segment", "name"))
    if kind == "dim" and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(INTEGERS)
    elif kind == "rank":
        tensor.dims.append(rng.choice((1, 1, 0, 2, -1)))
    elif kind == "type":
        tensor.data_type = rng.choice([*TensorProto.DataType.values(), 99])
    elif kind == "cut":
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif kind == "none":
        tensor.ClearField("raw_data")
    elif kind == "values" and tensor.raw_data and not tensor.HasField("segment"):
        size, known = {TensorProto.FLOAT: (4, FLOATS), TensorProto.INT64: (8, INTEGERS)}.get(
            tensor.data_type, (1, (0,))
        )
        data, at = bytearray(tensor.raw_data), rng.randrange(max(1, len(tensor.raw_data) // size))
        data[at * size : (at + 1) * size] = np.array(
            rng.choice(known), {4: "float32", 8: "int64"}.get(size, "uint8")
        ).tobytes()
        tensor.raw_data = bytes(data)
    elif kind == "segment":
        tensor.segment.begin, tensor.segment.end = 0, rng.choice(INTEGERS)
    else:
        tensor.name = rng.choice((*NAMES, *(t.name for t in model.graph.initializer)))


def _names(rng: Random, model: onnx.ModelProto, _: Path) -> None:
    node = rng.choice(model.graph.node)
    known = [name for each in model.graph.node for name in (*each.input, *each.output)]
    name = rng.choice((*NAMES, *rng.sample(known, min(8, len(known)))))
    field = rng.choice(("input", "input", "output", "name", "graph"))
    if field == "name":
        node.name = name
    elif field == "graph":
        rng.choice((*model.graph.input, *model.graph.output)).name = name
    else:
        names = getattr(node, field)
        if names:
            names[rng.randrange(len(names))] = name


def _arity(rng: Random, model: onnx.ModelProto, _: Path) -> None:
    node = rng.choice(model.graph.node)
    names = node.input if rng.random() < 0.7 else node.output
    if names and rng.random() < 0.5:
        names.pop()
    else:
        names.append(rng.choice(("", "x", *names)))


def _nodes(rng: Random, model: onnx.ModelProto, _: Path) -> None:
    nodes, kind = (
        model.graph.node,
        rng.choice(("remove", "twice", "order", "op", "op", "domain", "none")),
    )
    at = rng.randrange(len(nodes))
    if kind == "remove":
        del nodes[at]
    elif kind == "twice":
        nodes.add().CopyFrom(nodes[at])
    elif kind == "order":
        order = list(nodes)
        rng.shuffle(order)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
        del nodes[:]
        nodes.extend(copies)
    elif kind == "op":
        nodes[at].op_type = rng.choice(OPS)
    elif kind == "domain":
        nodes[at].domain = rng.choice(("ai.onnx", "ai.onnx.ml", "com.example", "é"))
    else:
        del nodes[:]


def _signature(rng: Random, model: onnx.ModelProto, _: Path) -> None:
    values = rng.choice((model.graph.input, model.graph.output))
    if not values:
        return
    value = rng.choice(values)
    tensor, kind = (
        value.type.tensor_type,
        rng.choice(("dim", "dim", "name", "rank", "type", "none", "twice", "gone")),
    )
    if kind == "dim" and tensor.shape.dim:
        rng.choice(tensor.shape.dim).dim_value = rng.choice(INTEGERS)
    elif kind == "name" and tensor.shape.dim:
        rng.choice(tensor.shape.dim).dim_param = rng.choice(("batch", "", "N"))
    elif kind == "rank":
        tensor.shape.dim.add().dim_value = rng.choice((1, 2, 0))
    elif kind == "type":
        tensor.elem_type = rng.choice([*TensorProto.DataType.values(), 77])
    elif kind == "twice":
        values.add().CopyFrom(value)
    elif kind == "none":
        value.ClearField("type")
    else:
        values.remove(value)


def _header(rng: Random, model: onnx.ModelProto, _: Path) -> None:
    kind = rng.choice(("opset", "opset", "ir", "twice", "none", "function", "sparse", "training"))
    if kind == "opset" and model.opset_import:
        model.opset_import[0].version = rng.choice(
            (0, 1, 7, 9, 10, 11, 13, 18, 23, 24, 99, *INTEGERS)
        )
    elif kind == "ir":
        model.ir_version = rng.choice((0, 1, 3, 8, 10, 99, *INTEGERS))
    elif kind == "twice":
        model.opset_import.add().version = rng.choice((11, 18))
    elif kind == "none":
        del model.opset_import[:]
    elif kind == "function":
        model.functions.add().name = rng.choice(OPS)
    elif kind == "sparse":
        model.graph.sparse_initializer.add().dims.append(3)
    else:
        model.training_info.add()


def _external(rng: Random, model: onnx.ModelProto, folder: Path) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    data = tensor.raw_data
    (folder / "w.bin").write_bytes(data if rng.random() < 0.7 else data[: len(data) // 2])
    places = (
        "w.bin",
        "w.bin",
        "w.bin",
        "../w.bin",
        "/etc/hostname",
        "",
        "none.bin",
        ".",
        "m.onnx",
        "w\0",
        "é",
    )
    entries = {"location": rng.choice(places)}
    if rng.random() < 0.5:
        entries["offset"] = rng.choice(("0", "4", "-4", "1", "x", "1e3", str(1 << 62), ""))
    if rng.random() < 0.5:
        entries["length"] = rng.choice((str(len(data)), "0", "-1", "x", str(1 << 62), ""))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _subgraph(rng: Random, model: onnx.ModelProto, _: Path) -> None:
    node = rng.choice(model.graph.node)
    inner = onnx.GraphProto()
    inner.node.add().CopyFrom(node)
    node.attribute.append(
        helper.make_attribute(rng.choice(("body", "then_branch", "value")), inner)
    )


_STRUCTURE: tuple[Callable[[Random, onnx.ModelProto, Path], None], ...] = (
    *(_attribute, _attribute, _new_attribute, _tensor, _tensor, _names, _names, _arity),
    *(_nodes, _signature, _header, _external, _subgraph),
)
