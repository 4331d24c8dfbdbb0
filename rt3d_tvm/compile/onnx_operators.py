"""What is known of ONNX's operators: which are tested, and what stops a model, all of it at once.

An operator outside the list is no obstacle: what TVM's importer takes is compiled, with one warning
that names it, since nobody has compared it with ONNX Runtime here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rt3d_tvm.compile.onnx_file import label_of
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

AUTO_PADS = (b"NOTSET", b"VALID", b"SAME_UPPER", b"SAME_LOWER")
# What exporters make of CNNs, and its relatives. tests/compile/test_operators.py compares each with
# ONNX Runtime at both ends of the range of opsets: add the test's row with the operator.
TESTED_OPS = (
    *("Abs", "Add", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat"),
    *("Constant", "Conv", "ConvTranspose", "DepthToSpace", "DequantizeLinear", "Div"),
    *("Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Gather", "Gelu"),
    *("Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "GroupNormalization", "GRU"),
    *("HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "LayerNormalization"),
    *("LeakyRelu", "Less", "Log", "LogSoftmax", "LSTM", "MatMul", "Max", "MaxPool", "Min"),
    *("Mish", "Mul", "Neg", "Pad", "Pow", "PRelu", "QuantizeLinear", "Reciprocal", "ReduceL1"),
    *("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape"),
    *("Resize", "RNN", "ScatterElements", "ScatterND", "Selu", "Sigmoid", "Slice", "Softmax"),
    *("Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "TopK"),
    *("Transpose", "Unsqueeze", "Where"),
)
# So many of the nodes that one reason stops are named.
_NAMED = 3


def untested(model: onnx.ModelProto) -> list[str]:
    """The operators of a graph that nobody has compared with ONNX Runtime, sorted."""
    return sorted({node.op_type for node in model.graph.node} - set(TESTED_OPS))


def check_nodes(model: onnx.ModelProto, path: Path, *, strict: bool) -> None:
    """InputError for all nodes that stop a model, each with the reason.

    strict: an operator that is not tested is one.
    """
    found = [(node, _why_not(node, _opset(model))) for node in model.graph.node]
    refused = [(node, reason) for node, reason in found if reason is not None]
    if strict and not refused:
        reason = "is not tested, and refused with strict; tested are " + ", ".join(TESTED_OPS)
        refused = [
            (node, f"operator {node.op_type} {reason}")
            for node in model.graph.node
            if node.op_type not in TESTED_OPS
        ]
    refuse_nodes(refused, path)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes that a node gives, by their names."""
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def refuse_nodes(refused: Sequence[tuple[onnx.NodeProto, str]], path: Path) -> None:
    """InputError that names the nodes under their reasons, if there are any."""
    if not refused:
        return
    by_reason: dict[str, list[str]] = {}
    for node, reason in refused:
        by_reason.setdefault(reason, []).append(label_of(node))
    raise InputError(
        f"{path}: " + "; ".join(f"{_listed(names)}: {why}" for why, names in by_reason.items())
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"node{'s' if len(names) > 1 else ''} {', '.join(names[:_NAMED])}{more}"


def _opset(model: onnx.ModelProto) -> int:
    return next(e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))


def _why_not(node: onnx.NodeProto, opset: int) -> str | None:
    """The reason a node is not accepted, or None."""
    import onnx

    if node.domain not in ("", "ai.onnx"):
        return (
            f"operator {node.op_type} of domain {node.domain!r} is not accepted; only the standard "
            "domain is: export without custom operators"
        )
    if not onnx.defs.has(node.op_type, opset, ""):
        return f"operator {node.op_type} is none of opset {opset}"
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        return (
            f"{node.op_type} has graphs of its own, of which one depends on the input; a model "
            "without branches and loops is accepted"
        )
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if "auto_pad" in attributes and attributes["auto_pad"].s not in AUTO_PADS:
        padding = attributes["auto_pad"].s.decode(errors="replace")
        return f"auto_pad {padding!r} is none; NOTSET, VALID, SAME_UPPER and SAME_LOWER are"
    if "training_mode" in attributes and attributes["training_mode"].i:
        return f"{node.op_type} in training mode is not accepted; export in eval mode"
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        return "Dropout with an input for training mode is not accepted; export in eval mode"
    if node.op_type == "Pad" and "mode" in attributes and attributes["mode"].s == b"wrap":
        return "Pad mode wrap is not accepted; accepted are constant, edge, reflect"
    return None
