"""ONNX -> Relax: a file this module accepts is one the rest of the flow understands."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.arguments import as_path
from rt3d_tvm.compile.onnx_batch import fix_batch, leaves_batch_open
from rt3d_tvm.compile.onnx_checks import check_interface, check_opset, check_shapes
from rt3d_tvm.compile.onnx_file import (
    check_sizes,
    label_of,
    load_external_data,
    read_model,
)
from rt3d_tvm.compile.onnx_fold import fold_constants
from rt3d_tvm.compile.onnx_functions import write_out_functions
from rt3d_tvm.compile.onnx_mends import mend_nodes
from rt3d_tvm.compile.onnx_operators import check_nodes, refuse_nodes, untested
from rt3d_tvm.compile.onnx_pads import merge_pads
from rt3d_tvm.compile.onnx_quantized import write_as_qdq
from rt3d_tvm.compile.onnx_recurrent import write_recurrent
from rt3d_tvm.compile.onnx_resize import write_resizes
from rt3d_tvm.compile.onnx_rewrites import (
    alone,
    merge_equal_nodes,
    remove_dead_nodes,
    remove_unused_outputs,
    types_of,
    write_padding,
    write_tensors,
)
from rt3d_tvm.compile.onnx_settings import store_settings
from rt3d_tvm.compile.quantization_checks import check_quantization
from rt3d_tvm.errors import InputError, UntestedOperators, words_of
from rt3d_tvm.numerics.non_finite import in_graph, refuse

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import tvm


def import_onnx(
    path: Path,
    *,
    allow_non_finite: bool = False,
    strict: bool = False,
    batch: int | None = None,
) -> tvm.IRModule:
    """Read an ONNX file into a Relax module whose ``main`` takes one tensor for each input.

    Inputs are float32 of fixed shape, or with a first axis that ``batch`` fixes; several outputs
    are a tuple. A Conv arrives as ``relax.nn.conv3d`` or ``conv2d`` followed by reshape and add for
    its bias, its weights as constants. ``main`` has the attribute ``layer_names``: `layer_names` of
    the file, equal layers once, in the order of the graph, since the importer keeps no name of a
    node; `interface_of` reads another. Nodes that no output depends on are left out, and those that
    depend on no input are computed.

    Operators that are not tested are named in one `UntestedOperators` warning and, as a list, in
    the attribute ``untested``; with ``strict`` they are refused. Raises InputError for what cannot
    be compiled, naming all nodes or the tensor and what is accepted; and for weights that are NaN
    or infinite unless ``allow_non_finite``: the attribute ``non_finite`` then lists them.
    """
    path = as_path(path, "path")
    model, shapes = _accepted_model(path, strict=strict, batch=batch)
    merge_equal_nodes(model)
    found = in_graph(model)
    if not allow_non_finite:
        refuse(found, where=path, command="compile")

    from rt3d_tvm.compile.interface import with_interface

    module = _imported(model, path)
    others = untested(model)
    attributes = {
        "layer_names": _layer_names(model, shapes),
        "non_finite": [str(each) for each in found],
        "untested": others,
    }
    module["main"] = module["main"].with_attrs(attributes)
    if others:
        warnings.warn(
            f"{path}: {', '.join(others)}: nobody has tested this, and it is compiled as TVM reads "
            "it; `rt3d verify` tells whether the artifact computes what ONNX Runtime does",
            UntestedOperators,
            stacklevel=2,
        )
    return with_interface(module, model, path)


def _imported(model: onnx.ModelProto, path: Path) -> tvm.IRModule:
    """What TVM's importer makes of a model; InputError with all nodes that it does not take."""
    try:
        return _from_onnx(model)
    except _REFUSALS as error:
        refused, types = [], types_of(model)
        for node in model.graph.node:
            try:
                _from_onnx(alone(model, node, types))
            except _REFUSALS as reason:
                said = f"TVM cannot import {node.op_type}: {words_of(reason, lines=1)}"
                refused.append((node, said))
        refuse_nodes(refused, path)
        raise InputError(
            f"{path}: TVM cannot import this model: {words_of(error, lines=1)}"
        ) from error


# Nodes that may be layers.
LAYER_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# The importer's refusals are of all these kinds.
_REFUSALS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError),
    *(RuntimeError, TypeError, ValueError),
)


def _from_onnx(model: onnx.ModelProto) -> tvm.IRModule:
    from tvm import relax
    from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

    from rt3d_tvm.compile.ir.relax_pads import constant_pad

    class InGraphOrder(ONNXGraphImporter):
        """Binds a layer where its node stands: the importer does where the result is first read.

        The names of the layers are in the order of the nodes. A Pad by a number is Relax's own.
        """

        def _convert_operator(self, op_name, *others):
            if op_name == "Pad" and (padded := constant_pad(*others[:2])) is not None:
                return self.bb.normalize(padded)
            result = super()._convert_operator(op_name, *others)
            is_call = op_name in LAYER_OPERATORS and isinstance(result, relax.Call)
            return self.bb.emit(result) if is_call else result

    importer = InGraphOrder({}, "float32", keep_params_in_input=False, sanitize=True)
    (opset,) = (e.version for e in model.opset_import if e.domain in ("", "ai.onnx"))
    # It reports by print and by warning.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importer.from_onnx(model.graph, opset)


def _accepted_model(
    path: Path, *, strict: bool = False, batch: int | None = None, any_batch: bool = False
) -> tuple[onnx.ModelProto, dict[str, list[int]]]:
    """The model with its weights and without what is constant, and the shapes of its tensors.

    any_batch: where the file leaves its batch open, take 1.
    """
    model = read_model(path)
    load_external_data(model, path)
    check_sizes(model, path)
    write_tensors(model)
    write_as_qdq(model, path)
    check_opset(model, path)
    if any_batch and leaves_batch_open(model):
        batch = 1
    if batch is not None:
        fix_batch(model, batch, path)
    check_interface(model, path)
    remove_dead_nodes(model)
    model = write_out_functions(model, path)
    write_tensors(model)
    store_settings(model)
    fold_constants(model, path)
    check_nodes(model, path, strict=strict)
    shapes = check_shapes(model, path)
    check_quantization(model, shapes, path)
    remove_dead_nodes(model)
    remove_unused_outputs(model)
    write_padding(model, shapes)
    merge_pads(model, shapes)
    remove_dead_nodes(model)
    mend_nodes(model, shapes, path)
    write_resizes(model, shapes, path)
    write_recurrent(model, shapes, path)
    # What was written may overwrite all that depends on an input, and layers behind it with it.
    fold_constants(model, path)
    remove_dead_nodes(model)
    return model, shapes


def layer_names(path: Path, *, transposed: bool = True) -> list[str]:
    """Name every layer of an ONNX file, in graph order, after the torch module it came from.

    Layers are the convolutions, ``transposed`` ones too, and the fully connected ones: a matrix
    times a constant matrix. The name is that of the weight less ``.weight`` (``features.conv3a``),
    else the node's, else the output's; one used twice gets ``#2``. The file may leave its batch
    open. Raises InputError for one that is not accepted.
    """
    return _layer_names(*_accepted_model(Path(path), any_batch=True), transposed=transposed)


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerNode:
    """A layer in an ONNX file: its node's first output, and its weight, (filters, channels, ...).

    node: its node's name; of one without a name that of its first output.
    weight: as it is stored, in 8 bits too; None where it is computed from other constants.
    """

    output: str
    weight: np.ndarray | None
    node: str = ""


def layer_nodes(path: Path) -> dict[str, LayerNode]:
    """Every layer of an ONNX file by the name that `layer_names` gives it; InputError as there.

    The file may leave its batch open.
    """
    model, shapes = _accepted_model(Path(path), any_batch=True)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        name: LayerNode(
            output=node.output[0],
            weight=_weight_of(node, constants.get(weight)),
            node=node.name or node.output[0],
        )
        for name, node, weight in _layers(model, shapes)
    }


def _weight_of(node: onnx.NodeProto, tensor: onnx.TensorProto | None) -> np.ndarray | None:
    """A weight, its filters first."""
    from onnx import numpy_helper

    if tensor is None:
        return None
    weight = numpy_helper.to_array(tensor)
    transposed = any(each.name == "transB" and each.i for each in node.attribute)
    channels_first = node.op_type in ("ConvTranspose", "MatMul", "Gemm") and not transposed
    return weight.swapaxes(0, 1) if channels_first else weight


def _layer_names(
    model: onnx.ModelProto, shapes: dict[str, list[int]], *, transposed: bool = True
) -> list[str]:
    return [name for name, *_ in _layers(model, shapes, transposed=transposed)]


def _layers(
    model: onnx.ModelProto, shapes: dict[str, list[int]], *, transposed: bool = True
) -> list[tuple[str, onnx.NodeProto, str]]:
    """Name, node and stored weight of every layer, in graph order."""
    # What depends on constants alone is folded away and becomes no layer.
    constants = {"", *(tensor.name for tensor in model.graph.initializer)}
    names: list[str] = []
    found: list[tuple[str, onnx.NodeProto, str]] = []
    convolutions = ("Conv", "ConvTranspose") if transposed else ("Conv",)
    stored: dict[str, str] = {}  # a quantised weight by the name of its real value
    for node in model.graph.node:
        if constants.issuperset(node.input):
            constants.update(node.output)
            if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast", "Mul"):
                stored[node.output[0]] = stored.get(node.input[0], node.input[0])
        elif node.op_type in convolutions or (
            node.op_type in ("Gemm", "MatMul")
            and node.input[1] in constants
            and [len(shapes.get(name, ())) for name in node.input[:2]] == [2, 2]
        ):
            weight = stored.get(node.input[1], node.input[1])
            names.append(_unique(_layer_name(node, weight), names))
            found.append((names[-1], node, weight))
    return found


def _layer_name(node: onnx.NodeProto, weight: str) -> str:
    whole = weight.removesuffix("_quantized")  # as onnxruntime's quantiser names it
    stem = whole.removesuffix(".weight")
    return stem if stem and stem != whole else label_of(node)


def _unique(name: str, others: list[str]) -> str:
    used = sum(other == name or other.startswith(f"{name}#") for other in others)
    return f"{name}#{used + 1}" if used else name
