"""A model file -> an artifact: model.so, weights.bin and manifest.json in one folder.

model.so holds the code. The weights lie beside it, 64-byte aligned, to be mapped and handed to the
Relax VM without a copy. What the files are is artifact/format.py's.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.arguments import as_flag, as_path
from rt3d_tvm.artifact.batches import BATCHES, listed
from rt3d_tvm.artifact.calls import CALLS, WHY_NONE
from rt3d_tvm.artifact.folder import why_kept
from rt3d_tvm.artifact.format import KERNELS, MODEL, write_artifact
from rt3d_tvm.compile.batches import BatchModule, merge_batches
from rt3d_tvm.compile.calls import list_calls
from rt3d_tvm.compile.choices.records import RecordSet, read_database, shipped_records
from rt3d_tvm.compile.extension import Phases
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.interface import interface_of
from rt3d_tvm.compile.ir.dataflow import bindings
from rt3d_tvm.compile.ir.packed_call import called
from rt3d_tvm.compile.ir.report import layers_of_calls, read_report
from rt3d_tvm.compile.link import export_arguments, write_library
from rt3d_tvm.compile.memory.phases import planned_bytes
from rt3d_tvm.compile.options import CompileOptions, Lowering, options_of
from rt3d_tvm.compile.passes.keep_packed import CHANGES_ATTRIBUTE, UNPACKED_ATTRIBUTE
from rt3d_tvm.compile.passes.lift_constants import lift_constants
from rt3d_tvm.compile.pipeline import (
    cannot_lower,
    check_dump,
    lower,
    run_phases,
    storage_phases,
    without_asserts,
)
from rt3d_tvm.compile.pipeline import phases as listed_phases
from rt3d_tvm.compile.processor_needs import processor_needs
from rt3d_tvm.errors import InputError, UntestedOperators
from rt3d_tvm.files.folders import check_replaceable, whole_folder
from rt3d_tvm.precision import QUANTIZED

# Of a manifest, what is said of each batch even where it is as for the first.
_OF_EACH_BATCH = ("inputs", "outputs")


def compile_onnx(
    onnx_path: str | Path,
    out_dir: str | Path,
    options: CompileOptions | None = None,
    *,
    database: str | Path | None = None,
    shipped: bool = True,
    allow_non_finite: bool = False,
    dump: str | Path | None = None,
    phases: Phases | None = None,
    progress: Callable[[str], None] | None = None,
    **settings: object,
) -> dict:
    """Compile an ONNX file into the folder ``out_dir`` and return the manifest.

    The folder appears whole or not at all; one that exists is replaced only if it is an artifact.
    ``settings`` are fields of CompileOptions (target, group, precision ...), where no ``options``
    are given. Tuned kernels come from ``database``, a work directory of `rt3d tune`, and where
    ``shipped`` then from the package's records. Weights that are NaN or infinite are taken with
    ``allow_non_finite`` only. ``dump`` is a folder for the module after each phase; ``phases``
    (`rt3d_tvm.compile.pipeline.extensible_phases`) has passes and schedules of others; ``progress``
    is told the name of each stage. InputError for a model, option, database or folder that will
    not do.
    """
    report = progress or (lambda stage: None)
    onnx_path, out_dir = as_path(onnx_path, "onnx_path"), as_path(out_dir, "out_dir")
    database = None if database is None else as_path(database, "database")
    dump = None if dump is None else as_path(dump, "dump")
    check_replaceable(out_dir, why_kept=why_kept)
    if dump is not None:
        check_dump(dump, outside=out_dir)
    options = options_of(options, settings)
    lowering = options.resolve()
    linked_for = lowering.target.host or lowering.target
    export_arguments(linked_for)
    records = [] if database is None else [read_database(database, lowering.target)]
    records += [shipped_records(lowering.target)] if as_flag(shipped, "shipped") else []
    parts: list[_Lowered] = []
    for batch in options.batches or (None,):
        several = f" batch {batch}" if len(options.batches) > 1 else ""
        report(f"import{several}")
        with _untested_named_once(again=bool(parts)):
            mod = import_onnx(
                onnx_path,
                allow_non_finite=allow_non_finite,
                strict=options.strict,
                batch=batch,
            )
        report(f"lower{several}")
        into = dump / f"batch_{batch}" if dump is not None and several else dump
        parts.append(_lowered(mod, lowering, records, into, phases))
    lowered = parts[0] if len(parts) == 1 else _merged(parts, options.batches)
    report("generate code")
    executable = _built(lowered.mod, lowering)
    report("write")
    with whole_folder(out_dir, why_kept=why_kept) as folder:
        kernels = folder / KERNELS if CALLS in lowered.texts else None
        write_library(executable, folder / MODEL, linked_for, kernels=kernels)
        about = {**_described(onnx_path.name, options, lowering), **lowered.about}
        return write_artifact(folder, about, lowered.weights, lowered.texts)


@dataclass(frozen=True, kw_only=True)
class _Lowered:
    """A module on planned storages, its weights, what else is written, and the manifest's part.

    inputs: how many parameters of ``main`` are the model's own; its weights follow.
    """

    inputs: int
    mod: tvm.IRModule
    weights: list[np.ndarray]
    texts: dict[str, str]
    about: dict


def _lowered(
    mod: tvm.IRModule,
    lowering: Lowering,
    records: Sequence[RecordSet],
    dump: Path | None,
    extension: Phases | None,
) -> _Lowered:
    """Run all phases; InputError for a module that they refuse."""
    names, inputs = list(mod["main"].attrs["layer_names"]), len(mod["main"].params)
    interface = {
        **interface_of(mod),
        "untested_operators": list(mod["main"].attrs["untested"]),
        "non_finite": list(mod["main"].attrs["non_finite"]),
    }
    try:
        mod = lower(mod, lowering, records=records, extension=extension, dump=dump)
    except ValueError as error:
        raise InputError(str(error)) from error
    layers = [
        {"name": name, **asdict(entry)} for name, entry in zip(names, read_report(mod), strict=True)
    ]
    about: dict = {
        **interface,
        "layers": layers,
        "calls": _calls(mod, names),
        "layout_changes": int(mod.attrs[CHANGES_ATTRIBUTE]),
        "not_packed": json.loads(mod.attrs[UNPACKED_ATTRIBUTE]),
    }
    if any(layer["weight_dtype"] == "int8" for layer in layers):
        about["precision"] = asdict(QUANTIZED)
    mod, weights = lift_constants(mod)
    first = len(listed_phases(lowering, extension=extension))
    mod = run_phases(mod, lowering, storage_phases(lowering), dump=dump, first=first)
    planned, largest = planned_bytes(mod)
    about |= {"planned_activation_bytes": planned, "largest_activation_bytes": largest}
    make_plan = lowering.backend.plan
    if make_plan is not None:
        texts = make_plan(mod, lowering.target, inputs=inputs).texts()
    else:
        texts, why_none = _call_list(mod, inputs)
        about |= {} if why_none is None else {WHY_NONE: why_none}
    return _Lowered(inputs=inputs, mod=mod, weights=weights, texts=texts, about=about)


def _merged(parts: Sequence[_Lowered], batches: Sequence[int]) -> _Lowered:
    """One module for several batches; the manifest has what is other for each in a list."""
    merged = merge_batches(
        [
            BatchModule(batch=batch, inputs=part.inputs, mod=part.mod, weights=part.weights)
            for batch, part in zip(batches, parts, strict=True)
        ]
    )
    first, entries = parts[0].about, []
    for batch, part, function, names in zip(
        batches, parts, merged.functions, merged.kernels, strict=True
    ):
        calls = [{**call, "function": names[call["function"]]} for call in part.about["calls"]]
        about = {**part.about, "calls": calls}
        other = {k: v for k, v in about.items() if k in _OF_EACH_BATCH or v != first.get(k)}
        entries.append({"batch": batch, "function": function, **other})
    why_none = (
        f"it serves batches of {listed(batches)}, and a C library serves one: bundle the ONNX file "
        f"with --batch {batches[0]}, or compile it so"
    )
    return _Lowered(
        inputs=parts[0].inputs,
        mod=merged.mod,
        weights=merged.weights,
        texts={},
        about={**first, WHY_NONE: why_none, BATCHES: entries},
    )


@contextlib.contextmanager
def _untested_named_once(*, again: bool) -> Iterator[None]:
    """Without the warning of a file that has been read before, for another batch."""
    with warnings.catch_warnings():
        if again:
            warnings.simplefilter("ignore", UntestedOperators)
        yield


def _call_list(mod: tvm.IRModule, inputs: int) -> tuple[dict[str, str], str | None]:
    """The file of a module's calls by name; or why there is none: the VM is needed then."""
    try:
        return {CALLS: list_calls(mod, inputs=inputs).text()}, None
    except ValueError as error:
        return {}, str(error)


def _built(mod: tvm.IRModule, lowering: Lowering) -> relax.VMExecutable:
    """The code of a module; InputError where TVM generates none of something in it."""
    try:
        with without_asserts():
            return relax.build(
                mod,
                lowering.target,
                relax_pipeline=_finalizing(lowering),
                tir_pipeline=lowering.backend.tir_pipeline(),
            )
    except RuntimeError as error:  # TVM's own
        raise InputError(cannot_lower(error)) from error


def _finalizing(lowering: Lowering) -> tvm.transform.Pass:
    with lowering.target:
        return tvm.transform.Sequential(
            lowering.backend.relax_backend.finalize_passes(lowering.target)
        )


def _described(model: str, options: CompileOptions, lowering: Lowering) -> dict:
    """What was asked for, and with what it was built."""
    has_choice = lowering.backend.why_no_sums is None
    return {
        "model": model,
        "target": {"name": options.target, "tvm": json.loads(str(lowering.target))},
        "processor": processor_needs(lowering.target),
        "versions": {name: version(name) for name in ("apache-tvm", "apache-tvm-ffi", "numpy")},
        "group": str(lowering.group) if lowering.group else "auto",
        "precision": asdict(lowering.precision),
        **({"accumulate": lowering.accumulate} if has_choice else {}),
    }


def _calls(mod: tvm.IRModule, names: Sequence[str]) -> list[dict]:
    """The functions that main calls, in order, and the layers that each computes, if any."""
    layers = layers_of_calls(mod)
    return [
        {
            "function": binding.value.args[0].name_hint,
            "layers": [names[index] for index in layers.get(binding.var, ())],
        }
        for binding in bindings(mod["main"])
        if called(mod, binding.value) is not None
    ]
