"""Export a torch model to ONNX, the only interface to the compiler, and check what came out."""

from __future__ import annotations

import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from math import inf, prod, sqrt
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    NotImplemented,
    RuntimeException,
)
from torch import nn

from rt3d_tvm.arguments import as_path
from rt3d_tvm.data.preprocessing import Description
from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.export.ceil_pools import write_out_ceil_pools
from rt3d_tvm.export.model_file import whole_model
from rt3d_tvm.export.model_output import exportable, outputs_of
from rt3d_tvm.export.named_tensors import Call
from rt3d_tvm.export.open_batch import check_open, open_axes, repeated
from rt3d_tvm.files.whole_file import check_writable
from rt3d_tvm.models.weights import non_finite_weights
from rt3d_tvm.numerics.distance import relative_distance
from rt3d_tvm.numerics.non_finite import in_graph, refuse
from rt3d_tvm.prune.activations import eval_mode
from rt3d_tvm.prune.inputs import ModelInputs
from rt3d_tvm.prune.weights import plain_weights

# The one that torch's exporter is written in; any other passes through a version converter.
_OPSET = 18
# A protobuf message has at most 2 GB. Weights of more than this, which leaves 128 MB to the graph,
# go to a file beside the model.
_LARGEST_MESSAGE = 2**31 - 2**27
# What the keys of the metadata begin with, so that they are nobody else's.
METADATA_PREFIX = "rt3d."
# Their weights are [channels, filters, ...].
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written. ``max_rel_error`` is |onnx - torch| over max |torch|, None if unchecked.

    Of several outputs it is the largest. ``inputs`` and ``outputs`` are their names.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    bytes: int
    opset: int
    operators: Mapping[str, int]
    max_rel_error: float | None
    tolerance: float


def export_onnx(
    model: nn.Module,
    input_shape: Sequence[int] | None,
    path: str | Path,
    *,
    example_inputs: object = None,
    check: bool = True,
    allow_non_finite: bool = False,
    open_batch: bool = False,
    description: Description | None = None,
) -> ExportReport:
    """Write a model as ONNX: input ``clip`` [input_shape], output ``logits``, float32, eval mode.

    ``example_inputs`` in place of ``input_shape``, which is None then, are tensors in tuples, lists
    and dicts as `project_` takes them. Several inputs are named by forward()'s parameters, several
    outputs by their keys, or by number (`Call`, `named`).

    Shapes are fixed, but for the first axis of every input with ``open_batch``. BatchNorm is folded
    into the convolutions, pruned weights stay exact zeros, and what computes a weight (weight_norm,
    spectral_norm, masks) leaves just the weight.
    With ``check`` the file is run in ONNX Runtime on a clip of noise and compared with torch; with
    ``open_batch`` on two batches.
    ``description``, how frames become the input and the classes' names, goes into its metadata.
    The files appear whole or not at all: one, or above 2 GB a second ``<name>.data`` beside it.

    InputError for a model that cannot be exported with standard operators alone, one that does not
    take its inputs, one whose export computes something else, a description of another model, and,
    unless ``allow_non_finite``, one with weights that are NaN or infinite.
    """
    path, described = as_path(path, "path"), description or Description()
    check_writable(path)
    model = exportable(model, several=example_inputs is not None)
    values = _values(model, input_shape, example_inputs)
    several = [values, repeated(values)] if open_batch else [values]
    calls = [Call.of(model, each) for each in several]
    with eval_mode(model), torch.no_grad():
        references = [outputs_of(model, call) for call in calls]
        inputs, outputs = calls[0].inputs, references[0]
        described.check(*(list(next(iter(each.values())).shape) for each in (inputs, outputs)))
        exported, tolerance = _finite_export(model, calls, outputs, open_batch, allow_non_finite)
    write_out_ceil_pools(exported)
    operators = _operators(exported)
    _describe(exported, described)
    with whole_model(path) as whole:
        _save(exported, whole)
        pairs = zip(calls, references, strict=True)
        error = max(_compare(whole, c.arrays, r) for c, r in pairs) if check else None
        if error is not None:
            _check_error(error, tolerance, model)
        size = sum(file.stat().st_size for file in whole.parent.iterdir())
    return ExportReport(
        path=path,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        bytes=size,
        opset=_OPSET,
        operators=operators,
        max_rel_error=error,
        tolerance=tolerance,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about its own insides, on success and on failure."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _values(
    model: nn.Module, input_shape: Sequence[int] | None, example_inputs: object
) -> ModelInputs:
    """What the model is called with: examples, or a clip of noise."""
    if example_inputs is not None or input_shape is None:
        inputs = ModelInputs.of(model, input_shape=input_shape, example_inputs=example_inputs)
        return inputs.noise(model)
    clip = np.random.default_rng(0).standard_normal(tuple(input_shape), dtype=np.float32)
    return ModelInputs((torch.from_numpy(clip),), {})


def _finite_export(
    model: nn.Module,
    calls: Sequence[Call],
    outputs: Mapping[str, np.ndarray],
    open_batch: bool,
    allow_non_finite: bool,
) -> tuple[onnx.ModelProto, float]:
    """The graph for the last call, and the rounding to expect of it.

    InputError for a NaN or an infinity in the weights, or in what the exporter computed from them.
    """
    name = f"this {type(model).__name__}"
    with plain_weights(model):
        if not allow_non_finite:
            refuse(non_finite_weights(model), where=name, command="export")
        exported = _export(model, calls[-1], tuple(outputs), open_batch=open_batch)
        if not allow_non_finite:
            refuse(in_graph(exported), where=f"{name}, exported", command="export")
        return exported, _tolerance(model)


def _export(
    model: nn.Module, call: Call, outputs: tuple[str, ...], *, open_batch: bool
) -> onnx.ModelProto:
    try:
        with _quiet():
            program = torch.onnx.export(
                model,
                # The last dict is that of names, and has to be there if an argument is one too.
                (*call.args, dict(call.kwargs)),
                input_names=list(call.inputs),
                output_names=list(outputs),
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
                dynamic_shapes=open_axes(model, call) if open_batch else None,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        # The cause says what was wrong with the model; the error itself, how to report a bug.
        reason = words_of(error.__cause__ or error, lines=1)
        how = " with an open batch" if open_batch else ""
        raise InputError(f"cannot export this {type(model).__name__}{how}: {reason}") from error
    exported = program.model_proto
    if open_batch:
        check_open(program, type(model).__name__)
    for what, names, values in (
        ("inputs", call.inputs, exported.graph.input),
        ("outputs", outputs, exported.graph.output),
    ):
        if [value.name for value in values] != list(names):
            there = ", ".join(value.name for value in values) or "none"
            raise InputError(
                f"the export of this {type(model).__name__} has {what} {there}, where the model's "
                f"are {', '.join(names)}: does it give one tensor twice, or leave one unread?"
            )
    return exported


def _describe(exported: onnx.ModelProto, described: Description) -> None:
    for name, text in described.as_json().items():
        exported.metadata_props.add(key=METADATA_PREFIX + name, value=text)


def _operators(exported: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs; InputError for one that is not of the standard."""
    for node in exported.graph.node:
        if node.domain not in _STANDARD_DOMAINS:
            raise InputError(
                f"the export needs operator {node.domain}::{node.op_type} (node {node.name!r}); "
                "accepted are those of the ONNX standard"
            )
    return dict(sorted(Counter(node.op_type for node in exported.graph.node).items()))


def _save(exported: onnx.ModelProto, path: Path) -> None:
    # The message itself cannot tell a size above 2 GB.
    size = sum(len(tensor.raw_data) or tensor.ByteSize() for tensor in exported.graph.initializer)
    external = size > _LARGEST_MESSAGE
    # save_model moves the weights out of the message it is given, which nobody needs afterwards.
    onnx.save_model(exported, path, save_as_external_data=external, location=f"{path.name}.data")
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"the export is not valid ONNX: {words_of(error)}") from error


def _compare(
    path: Path, inputs: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> float:
    """How far the file's outputs are from the model's; NaN and infinities have to be where it has
    them. InputError for references that are finite nowhere: they prove nothing.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # The graph as it is written: some of what the optimiser makes of it has another shape.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        outputs = session.run(list(reference), inputs)
    except (Fail, InvalidArgument, InvalidGraph, NotImplemented, RuntimeException) as error:
        raise InputError(
            f"ONNX Runtime, which the export is compared with, does not run it: "
            f"{words_of(error, lines=1)}"
        ) from error
    if not any(np.isfinite(expected).any() for expected in reference.values()):
        raise InputError(
            "the model's output for a clip of noise is finite nowhere, and so the export cannot be "
            "checked: are its weights finite?"
        )
    return max(
        relative_distance(output, expected, equal_nan=True)
        if output.shape == expected.shape
        else inf
        for output, expected in zip(outputs, reference.values(), strict=True)
    )


def _check_error(error: float, tolerance: float, model: nn.Module) -> None:
    if not error <= tolerance:
        raise InputError(
            f"the export of this {type(model).__name__} computes something else: ONNX Runtime "
            f"is off by {error:.2g} of the largest output, the limit is {tolerance:.2g}"
        )


def _tolerance(model: nn.Module) -> float:
    """The rounding to expect, relative to the largest output.

    A float32 sum of n terms in another order is off by about sqrt(n) units of rounding, and the
    errors of the layers add up in squares: sqrt(sum of all n). The factor leaves room for layers
    that amplify what the ones before got wrong; a wrong stride or a lost bias is off by 1e-2.
    """
    sums = 0
    for module in model.modules():
        inputs_first = isinstance(module, _TRANSPOSED)
        for weight in module.parameters(recurse=False):
            if weight.dim() > 1:
                terms = prod(weight.shape[1:])
                sums += terms // weight.shape[1] * weight.shape[0] if inputs_first else terms
    return 8 * float(np.finfo(np.float32).eps) * sqrt(max(sums, 1))
