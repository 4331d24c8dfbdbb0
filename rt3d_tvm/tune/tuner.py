"""Tuning a model on a device: trials, a log that survives anything, and verified records.

tune_onnx("model.onnx", "work", target="host")
compile_onnx("model.onnx", "artifact", database="work")
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import tvm

from rt3d_tvm.arguments import as_address, as_path
from rt3d_tvm.compile.choices.records import FORMAT
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.ir.report import read_report
from rt3d_tvm.compile.options import CompileOptions, Lowering, options_of
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.devices.shell import Machine
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.digest import file_sha256
from rt3d_tvm.files.staging import scratch_folder
from rt3d_tvm.tune.builder import Builder
from rt3d_tvm.tune.defaults import DEADLINE_S, TRIALS
from rt3d_tvm.tune.measuring import Pauses
from rt3d_tvm.tune.openers import open_for
from rt3d_tvm.tune.tasks import Task, extract_tasks
from rt3d_tvm.tune.trials import Tuner, TuningReport
from rt3d_tvm.tune.watch import Watch
from rt3d_tvm.tune.work_dir import check_work
from topi_sparse.cpu.kgs_conv2plus1d import KGSConv2Plus1D

# Seconds to wait for a device that has gone before it is given up.
PATIENCE_S = 600.0


def tune_onnx(
    onnx_path: str | Path,
    work: str | Path,
    options: CompileOptions | None = None,
    *,
    tracker: tuple[str, int] | str | None = None,
    key: str | None = None,
    trials: int = TRIALS,
    threads: int | None = None,
    deadline_s: float = DEADLINE_S,
    pauses: Pauses | None = None,
    opencl: str | None = None,
    machine: Machine | None = None,
    watch: Watch | None = None,
    **settings: object,
) -> TuningReport:
    """Search for faster kernels of a model, ``trials`` per layer; write the best into ``work``.

    A search that was stopped, whatever stopped it, goes on where it was. Kernels run on this
    machine, or on the devices of a tracker under ``key``. They take ``threads`` cores: by default
    all of this machine's, or a device's big ones. Kernels for OpenCL run on the GPU of a tracker's
    device, or on a device of this machine: the first, or the one whose name has ``opencl`` in it.
    ``machine`` is one without TVM that files can be brought to: `Adb`, `Ssh` or `Here`. options,
    settings: as of `compile_onnx`. InputError for bad input, a work directory of something else,
    and when no device is left.
    """
    watch = watch or Watch()
    onnx_path, work = as_path(onnx_path, "onnx_path"), as_path(work, "work")
    tracker = None if tracker is None else as_address(tracker, "tracker")
    check_work(work)
    options = options_of(options, settings)
    lowering = options.resolve()
    where = {"tracker": tracker, "key": key, "opencl": opencl, "machine": machine}
    opener = open_for(options.target, lowering, **where, threads=threads, deadline_s=deadline_s)
    watch.say("import and lower")
    mods, tasks = _lowered(onnx_path, options, lowering)
    tuner = Tuner(
        lowering.target,
        tasks,
        work=work,
        session={**_session(onnx_path, options, lowering, threads), **opener.settings},
        heights=None if lowering.group is None else (lowering.group.g_m,),
        watch=watch,
    )
    with (
        tuner,
        scratch_folder("rt3d-tune-") as folder,
        Builder(lowering.target, folder, kind=opener.kind) as builder,
        opener.opened(say=watch.say, pauses=pauses, patience_s=PATIENCE_S) as devices,
    ):
        report = tuner.run(builder, devices, trials=trials, overlap=opener.overlap)
    paired = sum(entry.kernel == KGSConv2Plus1D.name for entry in read_report(mods[0]))
    return replace(report, paired=paired)


def _lowered(
    onnx_path: Path, options: CompileOptions, lowering: Lowering
) -> tuple[list[tvm.IRModule], list[Task]]:
    """The model's module for each batch, and what of it can be tuned; InputError where nothing."""
    mods = []
    for batch in options.batches or (None,):
        mod = import_onnx(onnx_path, strict=options.strict, batch=batch)
        try:
            mods.append(lower(mod, lowering))
        except ValueError as error:
            raise InputError(str(error)) from error
    tasks = extract_tasks(*mods)
    if not tasks:
        raise InputError(f"{onnx_path}: none of its layers has a kernel that can be tuned")
    return mods, tasks


def versions() -> dict[str, str]:
    """Of what a record depends on."""
    return {name: version(name) for name in ("apache-tvm", "apache-tvm-ffi")}


def _session(
    onnx_path: Path, options: CompileOptions, lowering: Lowering, threads: int | None
) -> dict:
    """What a work directory is of: another search does not go on in it."""
    other_sums = lowering.accumulate != "float32"
    return {
        "format": FORMAT,
        "model": onnx_path.name,
        "model_sha256": file_sha256(onnx_path),
        "target": options.target,
        "tvm_target": json.loads(str(lowering.target)),
        "group": str(lowering.group) if lowering.group else "auto",
        "winograd": lowering.winograd,
        "precision": lowering.precision.name,
        "threads": threads,
        "versions": versions(),
        # Older searches had no choice, and say nothing of it.
        **({"accumulate": lowering.accumulate} if other_sums else {}),
    }
