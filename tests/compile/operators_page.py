"""docs/operators.md, drawn from the code: `python -m tests.compile.operators_page` writes it.

Each tested operator is imported as a model of one node, as the test's cases have it; what of Relax
it becomes says whether it works on packed values, and whether it is fused into the loops before it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

import onnx
import tvm
from tvm import relax

from rt3d_tvm.compile.frontend import _accepted_model, _from_onnx
from rt3d_tvm.compile.ir.dataflow import bindings, constant
from rt3d_tvm.compile.ir.packed_operators import OPERATORS
from rt3d_tvm.compile.legalize import LOOPS
from rt3d_tvm.compile.onnx_checks import MAX_OPSET, MIN_OPSET
from rt3d_tvm.compile.onnx_mends import _FORMS
from rt3d_tvm.compile.onnx_operators import TESTED_OPS
from rt3d_tvm.compile.onnx_rewrites import alone, types_of
from rt3d_tvm.compile.passes.clip import ClipAsOperators
from rt3d_tvm.compile.passes.evaluate_constants import EvaluateConstants
from rt3d_tvm.compile.passes.written_out import WrittenOut
from tests.compile.onnx_models import make_model
from tests.compile.operator_cases import FAMILIES, graph_of
from tests.compile.test_operators import ROWS

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"
# TVM's kinds of loop nests up to this one are fused into what they read.
_INJECTIVE = 2
_LAYERS = ("relax.nn.conv", "relax.matmul")
NOTES = {
    "BatchNormalization": "a variance below 0 is refused",
    "Conv": "1D, 2D and 3D",
    "ConvTranspose": "a layer, of conv groups where writing them out pays",
    **dict.fromkeys(
        ("GRU", "LSTM", "RNN"),
        "written out step by step, up to 256; its products with the input are one layer",
    ),
    "Gather": "a constant index outside is refused",
    "GroupNormalization": "written as InstanceNormalization of the groups",
    "InstanceNormalization": "packed with all that follows value by value, of clips on CPUs",
    "MaxPool": "one result; its indices are refused",
    "Pad": "constant (packed), edge, reflect; wrap is refused",
    "Resize": "nearest, linear: packed; written as sums of Gathers where TVM's coordinates are "
    "others; no crop, no policy",
    "TopK": "sorted",
}
TEXT = (
    "Drawn from the code by `python -m tests.compile.operators_page`; a test fails where it is "
    "stale.",
    "Each operator below is compared with ONNX Runtime over its attributes and opsets. An operator "
    "that is not below is compiled where TVM's importer takes it, with one warning that names it: "
    "`rt3d verify` tells whether the artifact is right, and `--strict` refuses it. An operator "
    "that ONNX defines by others (Celu, ...) is written out where the importer lacks it. What "
    "depends on no input is computed when a model is compiled: there any operator will do.",
    '"packed": there is a form that works on the packed layout between two kernels; what has none '
    'costs a change of layout there, and the manifest\'s `not_packed` says why. "fused": it is '
    "computed in the loops of what it reads.",
)
HEAD = "| operator | opsets | packed | fused | notes |\n|---|---|---|---|---|\n"


def page() -> str:
    """The page as it should be."""
    nodes = _nodes()
    text = "\n\n".join(fill(each, 120) for each in TEXT)
    return f"# Operators\n\n{text}\n\n{HEAD}" + "".join(
        f"| {op} | {_opsets(op)} | {' | '.join(_forms(nodes.get(op)))} | {_note(op)} |\n"
        for op in TESTED_OPS
    )


def _models() -> Iterator[onnx.ModelProto]:
    for row in ROWS.values():
        parts = row(20)
        nodes = [part for part in parts if isinstance(part, onnx.NodeProto)]
        yield make_model(nodes, [] if parts[-1] in nodes else parts[-1], opset=20)
    for family in FAMILIES.values():
        yield graph_of(family, 20).model()


def _nodes() -> dict[str, onnx.ModelProto]:
    """A model of one node for each operator that is left where a model has been read."""
    found: dict[str, onnx.ModelProto] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        for made in _models():
            onnx.save(made, path)
            model, _ = _accepted_model(path)
            types = types_of(model)
            for node in model.graph.node:
                if node.op_type not in found:
                    found[node.op_type] = alone(model, node, types)
    return found


def _opsets(op: str) -> str:
    first = min(s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.name == op)
    return f"{max(first, MIN_OPSET)} to {MAX_OPSET}"


def _forms(model: onnx.ModelProto | None) -> tuple[str, str]:
    """Whether it is packed and fused, as the table says it."""
    if model is None:
        return "-", "-"
    module = WrittenOut()(ClipAsOperators()(EvaluateConstants()(_from_onnx(model))))
    calls = [
        binding.value.op.name
        for binding in bindings(module["main"])
        if isinstance(binding.value, relax.Call)
        and isinstance(binding.value.op, tvm.ir.Op)
        and not all(constant(arg) is not None for arg in binding.value.args)
    ]
    if not calls:
        return "-", "-"
    if any(call.startswith(_LAYERS) for call in calls):
        return "layer", "-"
    if "relax.variance" in calls:  # the pass GroupNorms takes the operators up together
        return "yes", "no"
    packed = all(call.replace("2d", "3d") in OPERATORS for call in calls)
    nests = relax.transform.AnnotateTIROpPattern()(relax.transform.LegalizeOps(LOOPS)(module))
    kinds = [
        int(function.attrs["op_pattern"])
        for _, function in nests.functions_items()
        if isinstance(function, tvm.tirx.PrimFunc)
    ]
    fused = bool(kinds) and max(kinds) <= _INJECTIVE
    return "yes" if packed else "no", "yes" if fused else "no"


def _note(op: str) -> str:
    note = NOTES.get(op, "")
    if op in _FORMS:
        told = "written by others where TVM reads it otherwise"
        note = f"{note}; {told}" if note else told
    return note


if __name__ == "__main__":
    with tvm.target.Target("llvm"):
        PAGE.write_text(page(), encoding="utf-8")
