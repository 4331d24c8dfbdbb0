"""A model file -> an artifact: model.so, weights.bin and manifest.json in one folder.

model.so holds the code. The weights lie beside it, 64-byte aligned, to be mapped and handed to the
Relax VM without a copy. Both carry one id, so that two that do not belong together are refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline as cpu_pipeline
from tvm.relax.backend.gpu_generic import pipeline as gpu_pipeline

from rt3d_tvm.artifact.load import ALIGNMENT, FORMAT, MAGIC, MANIFEST, MODEL, WEIGHTS, file_sha256
from rt3d_tvm.artifact.opencl.plan import PLAN, SOURCE
from rt3d_tvm.compile.choices.records import read_database, shipped_records
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.ir.dataflow import bindings, constant, dtype_of, is_op, static_shape
from rt3d_tvm.compile.ir.packed_call import called, packed_kernel
from rt3d_tvm.compile.link import export_arguments
from rt3d_tvm.compile.opencl_lowering import tir_pipeline
from rt3d_tvm.compile.opencl_planner import make_plan
from rt3d_tvm.compile.passes.keep_packed import CHANGES_ATTRIBUTE, UNPACKED_ATTRIBUTE
from rt3d_tvm.compile.passes.kgs_conv3d import read_report, weights_digest
from rt3d_tvm.compile.passes.lift_constants import lift_constants
from rt3d_tvm.compile.passes.share_storages import ALLOC_STORAGE, ShareStorages
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.compile.targets import check_precision, default_precision, is_opencl, make_target
from rt3d_tvm.errors import InputError
from rt3d_tvm.precision import make_precision
from topi_sparse.cpu.depthwise_conv3d import DepthwiseConv3d
from topi_sparse.cpu.kgs_conv2plus1d import KGSConv2Plus1D
from topi_sparse.cpu.kgs_conv3d import KGSConv3d
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.layout import ceil_div


def compile_onnx(
    onnx_path: Path,
    out_dir: Path,
    *,
    target: str = "host",
    group: KernelGroup | None = None,
    winograd: bool = True,
    precision: str | None = None,
    accumulate: str | None = None,
    database: Path | None = None,
    shipped: bool = True,
    dump: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict:
    """Compile an ONNX file into the folder ``out_dir`` and return the manifest.

    The folder appears whole or not at all; one that exists is replaced only if it is an artifact.
    ``group`` is the kernel group for all convolutions; by default each gets the one that fits its
    zeros. Without ``winograd`` every convolution is computed directly. ``precision`` is fp32, or
    fp16 where the target computes in it (default: fp16 for adreno, else fp32); kernels of OpenCL
    then ``accumulate`` in fp32 (default) or fp16. Tuned kernels are those of ``database``, a work
    directory of `rt3d tune`, then, where ``shipped``, those of the package's records. ``dump`` is a
    folder for the module after each phase; ``progress`` is told the name of each stage. InputError
    for a model, target, group, precision, database or folder that will not do.
    """
    report = progress or (lambda stage: None)
    out_dir = Path(out_dir).resolve()  # a link to a folder stays one
    _check_replaceable(out_dir)
    made_for, chosen = make_target(target), make_precision(precision or default_precision(target))
    check_precision(chosen, made_for, target)
    if accumulate is not None and not is_opencl(made_for):
        raise InputError(
            f"accumulate {accumulate}: target {target} adds up in the type of the activations; "
            "adreno and opencl have a choice"
        )
    sums = make_precision(accumulate or "fp32").dtype
    linking = export_arguments(made_for.host or made_for)
    report("import")
    mod = import_onnx(Path(onnx_path))
    inputs = [_signature(param) for param in mod["main"].params]
    outputs = [_signature(mod["main"].body.body)]
    names = list(mod["main"].attrs["layer_names"])
    report("lower")
    records = [] if database is None else [read_database(database, made_for)]
    records += [shipped_records(made_for)] if shipped else []
    try:
        mod = lower(
            mod,
            made_for,
            group=group,
            winograd=winograd,
            dtype=chosen.dtype,
            records=records,
            accumulate=sums,
            dump=dump,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    layers = [
        {"name": name, **asdict(entry)} for name, entry in zip(names, read_report(mod), strict=True)
    ]
    changes = int(mod.attrs[CHANGES_ATTRIBUTE])
    not_packed = json.loads(mod.attrs[UNPACKED_ATTRIBUTE])
    calls = _calls(mod, layers)
    mod, constants = lift_constants(mod)
    index, size, digest = _weight_index(constants)
    backend, plan = cpu_pipeline, None
    if is_opencl(made_for):
        backend, plan = gpu_pipeline, make_plan(mod, made_for, inputs=len(inputs))
    mod = _with_id(mod, digest)
    with made_for:
        mod = tvm.transform.Sequential(backend.dataflow_lower_passes(made_for))(mod)
        mod = tvm.transform.Sequential([relax.transform.StaticPlanBlockMemory(), ShareStorages()])(
            mod
        )
        finalize = tvm.transform.Sequential(backend.finalize_passes(made_for))
        planned, largest = _planned_bytes(mod)
    report("generate code")
    executable = relax.build(
        mod, made_for, relax_pipeline=finalize, tir_pipeline=tir_pipeline(made_for)
    )
    report("write")
    with _new_folder(out_dir) as folder:
        try:
            executable.export_library(str(folder / MODEL), **linking)
        except RuntimeError as error:
            raise InputError(f"{MODEL} cannot be linked: {error}") from error
        _write_weights(folder / WEIGHTS, constants, index, size, digest)
        files = (MODEL, WEIGHTS)
        if plan is not None:
            plan.write(folder)
            files = (*files, SOURCE, PLAN)
        manifest = {
            "format": FORMAT,
            "id": digest.hex(),
            "model": Path(onnx_path).name,
            "target": {"name": target, "tvm": json.loads(str(made_for))},
            "versions": {name: version(name) for name in ("apache-tvm", "apache-tvm-ffi", "numpy")},
            "inputs": inputs,
            "outputs": outputs,
            "group": str(group) if group else "auto",
            "precision": asdict(chosen),
            **({"accumulate": sums} if plan else {}),
            "layers": layers,
            "calls": calls,
            "layout_changes": changes,
            "not_packed": not_packed,
            "planned_activation_bytes": planned,
            "largest_activation_bytes": largest,
            "weight_bytes": size,
            "weights": index,
            "sha256": {name: file_sha256(folder / name) for name in files},
        }
        text = json.dumps(manifest, indent=1)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def _signature(expr: relax.Expr) -> dict:
    return {
        "name": getattr(expr, "name_hint", ""),
        "shape": static_shape(expr),
        "dtype": dtype_of(expr),
    }


def _calls(mod: tvm.IRModule, layers: list[dict]) -> list[dict]:
    """The functions that main calls, in order, and the layers that each computes, if any."""
    names: dict[str, list[str]] = {}
    for layer in layers:
        names.setdefault(layer["weights_digest"], []).append(layer["name"])
    calls = []
    for binding in bindings(mod["main"]):
        func = called(mod, binding.value)
        if func is None:
            continue
        kernel, tensors = packed_kernel(func), binding.value.args[1].fields
        definition = kernel[1] if kernel else None
        weighted = []
        if isinstance(definition, (KGSConv3d, DepthwiseConv3d)):
            weighted = [(definition, tensors[1])]
        elif isinstance(definition, KGSConv2Plus1D):
            weighted = [(definition.spatial, tensors[1]), (definition.temporal, tensors[5])]
        # Layers of one shape with equal weights: in the order of their calls.
        of_call = [names[weights_digest(conv, constant(w))].pop(0) for conv, w in weighted]
        calls.append({"function": binding.value.args[0].name_hint, "layers": of_call})
    return calls


def _planned_bytes(mod: tvm.IRModule) -> tuple[int, int]:
    """Bytes of all storages of a planned module, and of the largest of them."""
    sizes = [
        int(binding.value.args[0].values[0])
        for binding in bindings(mod["main"])
        if is_op(binding.value, ALLOC_STORAGE)
    ]
    return sum(sizes), max(sizes, default=0)


def _with_id(mod: tvm.IRModule, digest: bytes) -> tvm.IRModule:
    """The module with a function ``artifact_id`` that returns the digest as 32 uint8."""
    builder = relax.BlockBuilder(mod)
    with builder.function("artifact_id", []):
        with builder.dataflow():
            value = builder.emit_output(relax.const(np.frombuffer(digest, "uint8")))
        builder.emit_func_output(value)
    return builder.finalize()


def _weight_index(constants: Sequence[np.ndarray]) -> tuple[list[dict], int, bytes]:
    """Where each constant goes in the weights file, the file's size, and the digest of it all."""
    digest, index, position = hashlib.sha256(), [], ALIGNMENT
    for value in constants:
        entry = {"dtype": str(value.dtype), "shape": value.shape, "offset": position}
        index.append(entry)
        digest.update(json.dumps(entry).encode())
        digest.update(np.ascontiguousarray(value).data)
        position += ceil_div(value.nbytes, ALIGNMENT) * ALIGNMENT
    return index, position, digest.digest()


def _write_weights(
    path: Path, constants: Sequence[np.ndarray], index: list[dict], size: int, digest: bytes
) -> None:
    with path.open("wb") as file:
        file.write(MAGIC + size.to_bytes(8, "little") + digest)
        for value, entry in zip(constants, index, strict=True):
            file.seek(entry["offset"])
            file.write(np.ascontiguousarray(value).data)
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())


def _check_replaceable(folder: Path) -> None:
    """InputError for a path that holds something else than an artifact, or cannot be written to."""
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        if names and not (names <= {MODEL, WEIGHTS, MANIFEST, SOURCE, PLAN} and MANIFEST in names):
            raise InputError(
                f"{folder} holds other files; an artifact replaces an artifact, an empty folder or "
                "nothing"
            )
    elif folder.exists():
        raise InputError(f"{folder} is a file; the name of a folder is expected")
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise InputError(f"{parent} is no folder; make it first")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{parent} cannot be written to")


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder that takes the given name once its content is complete; until then the old one does.

    At no moment is the only copy inside a folder that will be removed.
    """
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", dir=folder.absolute().parent
        ) as temporary:
            made, old = Path(temporary) / "new", Path(f"{temporary}.old")
            made.mkdir()
            yield made
            if folder.exists():
                folder.rename(old)
            try:
                made.rename(folder)
            except OSError:
                old.rename(folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error
