"""The flow in one import: ``import rt3d_tvm as rt`` has the functions of this module.

Each imports what it needs when it is called: those that prune need torch and no TVM, those that
compile need TVM and, for an ONNX file, no torch. A path is text or a Path, a kernel group text such
as ``"8x4"`` or a KernelGroup. Whatever will not do is an InputError, one line.

The examples go on from one another. They begin with

    >>> import torch
    >>> import rt3d_tvm as rt
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv3d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv3d(16, 8, 3)
    ... )
    >>> clip = torch.randn(1, 3, 8, 16, 16)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rt3d_tvm.api.torch_inputs import description_of, exported_inputs, onnx_file
from rt3d_tvm.arguments import as_path

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from rt3d_tvm.artifact.load import Artifact
    from rt3d_tvm.artifact.opencl.artifact import OpenCLArtifact
    from rt3d_tvm.artifact.verify import Verification
    from rt3d_tvm.compile.extension import Phases
    from rt3d_tvm.data.preprocessing import Preprocessing
    from rt3d_tvm.export import ExportReport
    from rt3d_tvm.measure.timing import Timing
    from rt3d_tvm.prune.pruner import Pruner as Pruner
    from rt3d_tvm.prune.report import ProjectionReport
    from rt3d_tvm.quantize import Quantization
    from rt3d_tvm.tune.trials import TuningReport
    from topi_sparse.kernel_group import KernelGroup

    Model: TypeAlias = str | os.PathLike[str] | nn.Module


def __getattr__(name: str) -> object:
    if name != "Pruner":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rt3d_tvm.prune.pruner import Pruner

    return Pruner


def prune(
    model: nn.Module,
    *,
    rate: float,
    group: KernelGroup | str = "8x4",
    scheme: str = "kgs",
    example_inputs: object = None,
    input_shape: Sequence[int] | None = None,
    ignore: Iterable[str] = (),
    **settings: Any,
) -> ProjectionReport:
    """Zero the least important weights of a torch model, in place, in one shot; report each layer.

    ``rate`` is dense MACs / kept MACs of the whole model. ``example_inputs`` is what the model is
    called with, a tensor or several in a tuple or dict; ``input_shape`` stands for a clip of that
    shape. ``scheme`` is kgs, vanilla or filter. `Pruner` prunes in training, which keeps more of
    the accuracy. ``settings`` are those of `rt3d_tvm.prune.project.project_`.

    >>> report = rt.prune(model, rate=2.0, group="8x4", example_inputs=clip)
    >>> print(f"{report.rate:.1f}")
    2.0
    """
    from rt3d_tvm.prune.project import project_

    return project_(
        model,
        scheme=scheme,
        group=group,
        rate=rate,
        input_shape=input_shape,
        example_inputs=example_inputs,
        ignore=ignore,
        **settings,
    )


def export(
    model: nn.Module,
    path: str | Path,
    *,
    example_inputs: object = None,
    input_shape: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    **settings: Any,
) -> ExportReport:
    """Write a torch model as ONNX, and compare the file with the model in ONNX Runtime.

    ``labels`` are the classes' names and ``preprocessing`` says how frames become the input
    (`rt3d_tvm.data.preprocessing.Preprocessing`, or its fields): both travel with the model, and
    `rt3d run` needs them. ``settings`` are those of `rt3d_tvm.export.export_onnx`.

    >>> rt.export(model, "model.onnx", example_inputs=clip).opset
    18
    """
    from rt3d_tvm.export import export_onnx

    shape, inputs = exported_inputs(example_inputs, input_shape)
    return export_onnx(
        model,
        shape,
        path,
        example_inputs=inputs,
        description=description_of(labels, preprocessing),
        **settings,
    )


def quantize(
    model: Model,
    output: str | Path,
    clips: np.ndarray | str | Path,
    *,
    example_inputs: object = None,
    **settings: Any,
) -> Quantization:
    """Quantise a float32 model to QDQ ONNX in 8 bits, which `compile` takes in its place.

    ``clips`` are inputs to find the ranges on: float32 (N, ...), a .npy file, or a folder of
    videos. ``settings`` are those of `rt3d_tvm.quantize.quantize_onnx`.

    >>> clips = torch.randn(4, 3, 8, 16, 16).numpy()
    >>> [layer.dtype for layer in rt.quantize("model.onnx", "int8.onnx", clips).layers]
    ['int8', 'int8']
    """
    from rt3d_tvm.quantize import quantize_onnx

    with onnx_file(model, example_inputs, None) as path:
        return quantize_onnx(path, output, clips, **settings)


def compile(
    model: Model,
    out: str | Path,
    target: str = "host",
    *,
    example_inputs: object = None,
    input_shape: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict:
    """Compile an ONNX file or a torch module into the folder ``out``; return its manifest.

    A module is exported on the way: ``example_inputs``, ``labels`` and ``preprocessing`` are as of
    `export`, and its batch is left open where ``batch`` is given. ``settings`` are those of
    `rt3d_tvm.compile.build.compile_onnx`: group, precision, database, batch, ... The manifest's
    "layers" say what became of each convolution.

    >>> manifest = rt.compile("model.onnx", "artifact")
    >>> [layer["kernel"] for layer in manifest["layers"]]
    ['kgs_conv3d', 'kgs_conv3d']
    """
    from rt3d_tvm.compile.build import compile_onnx

    described = description_of(labels, preprocessing)
    is_open = settings.get("batch") is not None
    with onnx_file(model, example_inputs, input_shape, described, open_batch=is_open) as path:
        return compile_onnx(path, out, target=target, **settings)


def phases() -> Phases:
    """The phases of `compile` by name, to put passes and schedules of one's own among them.

    ``before`` and ``after`` take the name of a phase, a name and a pass of TVM, ``scheduled_by`` a
    rule for kernels; `compile` takes the result as ``phases``. examples/own_operator.py has both.

    >>> import tvm
    >>> more = rt.phases().before("legalize", "look", tvm.transform.PrintIR())
    >>> more.names[more.names.index("look") + 1]
    'legalize'
    """
    from rt3d_tvm.compile.pipeline import extensible_phases

    return extensible_phases()


def load(
    folder: str | Path, *, threads: int | None = None, device: str | None = None
) -> Artifact | OpenCLArtifact:
    """Load a compiled model onto this machine's cores, or its OpenCL device; ``run`` runs it.

    ``threads`` is by default the number of cores. ``device`` is a part of an OpenCL device's name.

    >>> rt.load("artifact", threads=1).run(clip.numpy()).shape
    (1, 8, 4, 12, 12)
    """
    from rt3d_tvm.artifact.opencl.artifact import load_here

    return load_here(as_path(folder, "folder"), threads=threads, device=device)


def verify(
    folder: str | Path, model: Model, *, example_inputs: object = None, **settings: Any
) -> Verification:
    """Compare a compiled model with ONNX Runtime on the ONNX file or module it was compiled from.

    ``settings`` are those of `rt3d_tvm.artifact.verify.verify`: inputs, limit, clips, ...

    >>> rt.verify("artifact", "model.onnx").passed
    True
    """
    from rt3d_tvm.artifact.verify import verify as verify_artifact

    with onnx_file(model, example_inputs, None) as path:
        return verify_artifact(as_path(folder, "folder"), path, **settings)


def bench(
    folder: str | Path | Sequence[str | Path],
    *,
    onnx: str | Path | None = None,
    model: nn.Module | None = None,
    engines: Sequence[str] = ("onnxruntime",),
    runs: int = 20,
    threads: int | None = None,
    device: str | None = None,
    batch: int | None = None,
) -> list[Timing]:
    """Milliseconds of compiled models, beside other engines on an ONNX file or a module.

    ``folder`` is an artifact or several. ``engines`` run the file of ``onnx``: onnxruntime,
    openvino, torch. All run in turns on a random input, so that a clock that drifts is the same for
    all. ``device`` is a part of an OpenCL device's name. ``batch`` is one of an artifact's several,
    by default its first.

    >>> timings = rt.bench("artifact", onnx="model.onnx", model=model, runs=2)
    >>> [timing.engine for timing in timings]
    ['rt3d', 'ONNX Runtime', 'PyTorch']
    """
    import numpy as np

    from rt3d_tvm.artifact.batches import part_of
    from rt3d_tvm.artifact.format import MANIFEST, read_manifest
    from rt3d_tvm.artifact.load import available_cores
    from rt3d_tvm.artifact.tensors import noise
    from rt3d_tvm.engines.engine import artifact_engine, chosen
    from rt3d_tvm.engines.onnx_file import onnx_engines
    from rt3d_tvm.measure.turns import latency

    one = isinstance(folder, (str, os.PathLike))
    folders = [as_path(each, "folder") for each in ([folder] if one else folder)]
    manifests = [part_of(read_manifest(each / MANIFEST), batch) for each in folders]
    inputs = [noise(manifest, np.random.default_rng(0)) for manifest in manifests]
    timed = [
        artifact_engine(each, manifest, x, device=device)
        for each, manifest, x in zip(folders, manifests, inputs, strict=True)
    ]
    if onnx is not None:
        names = chosen(engines)
        timed += onnx_engines(as_path(onnx, "onnx"), names, manifests, inputs)
    with contextlib.ExitStack() as stack:
        if model is not None:
            from rt3d_tvm.engines.torch_module import evaluated_engine

            timed.append(stack.enter_context(evaluated_engine(model, inputs[0])))
        return latency(timed, threads=threads or available_cores(), runs=runs)


def report(
    folders: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    onnx: str | Path | None = None,
    data: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    engines: Sequence[str] = ("onnxruntime",),
    runs: int = 20,
    threads: int | None = None,
) -> dict:
    """Write a page about compiled models: what was gained, layer by layer; return what it says.

    ``onnx`` is the file that they were compiled from: with it other engines, the error of each
    layer and pictures of what is kept are there. ``data`` are labelled videos, for the accuracy;
    ``preprocessing`` says how their clips are made, in place of what the models say.

    >>> found = rt.report("artifact", "report.html", onnx="model.onnx", runs=2)
    >>> [gain["against"] for gain in found["gains"]]
    ['ONNX Runtime']
    """
    from rt3d_tvm.engines.engine import chosen
    from rt3d_tvm.reporting.artifacts import Settings
    from rt3d_tvm.reporting.write import make_report

    one = isinstance(folders, (str, os.PathLike))
    paths = [as_path(each, "folders") for each in ([folders] if one else folders)]
    settings = Settings(
        folders=paths,
        onnx=None if onnx is None else as_path(onnx, "onnx"),
        data=None if data is None else as_path(data, "data"),
        preprocessing=lambda manifest: {"instead": preprocessing},
        engines=() if onnx is None else chosen(engines),
        runs=runs,
        threads=threads,
    )
    page = as_path(output, "output")
    return make_report(settings, command=("rt.report",), progress=lambda stage: None, page=page)


def tune(onnx: str | Path, work: str | Path, target: str = "host", **settings: Any) -> TuningReport:
    """Search for faster kernels of an ONNX file: here, on a phone, or on a tracker's devices.

    What is found goes into the folder ``work``, and ``compile(..., database=work)`` builds with
    it. A search that was stopped goes on there. ``settings`` are those of
    `rt3d_tvm.tune.tuner.tune_onnx`: trials, machine, tracker, key, ...

    >>> report = rt.tune("model.onnx", "work", trials=1)
    >>> manifest = rt.compile("model.onnx", "artifact", database="work")
    """
    from rt3d_tvm.tune.tuner import tune_onnx

    return tune_onnx(onnx, work, target=target, **settings)
