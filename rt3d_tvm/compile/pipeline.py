"""From imported Relax to scheduled kernels: the one list of phases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tvm
from tvm import relax
from tvm.ir.transform import Pass
from tvm.s_tir import dlight
from tvm.target import Target

import schedules.table
from rt3d_tvm.compile.choices.records import RecordSet
from rt3d_tvm.compile.passes.clip import ClipAsOperators
from rt3d_tvm.compile.passes.conv2d import Conv2dAsConv3d
from rt3d_tvm.compile.passes.conv2plus1d import Conv2Plus1D
from rt3d_tvm.compile.passes.fully_connected import FullyConnectedAsConv3d
from rt3d_tvm.compile.passes.keep_packed import KeepPacked
from rt3d_tvm.compile.passes.kgs_conv3d import KGSConv3d
from rt3d_tvm.compile.passes.pruned_filters import PrunedFilters
from rt3d_tvm.compile.passes.tuned_kernels import TunedKernels
from topi_sparse.kernel_group import KernelGroup


def phases(
    target: Target,
    group: KernelGroup | None = None,
    *,
    winograd: bool = True,
    dtype: str = "float32",
    accumulate: str = "float32",
    records: Sequence[RecordSet] = (),
) -> list[tuple[str, Pass]]:
    """Names and passes, in order. What follows ``target`` is as for KGSConv3d.

    ``records``: tuned choices, of several for a kernel those of the first set.
    """
    kgs_conv3d = KGSConv3d(target, group, winograd=winograd, dtype=dtype, accumulate=accumulate)
    return [
        ("fold_constants", relax.transform.FoldConstant()),
        ("clip", ClipAsOperators()),
        ("conv2d", Conv2dAsConv3d()),
        ("fully_connected", FullyConnectedAsConv3d()),
        ("pruned_filters", PrunedFilters()),
        # A reshape there and back between two layers would keep them from one layout.
        ("merge_views", relax.transform.RemoveRedundantReshape()),
        ("kgs_conv3d", kgs_conv3d),
        ("keep_packed", KeepPacked(target)),
        ("conv2plus1d", Conv2Plus1D(target)),
        ("tuned_kernels", TunedKernels(target, records, group)),
        ("merge_reshapes", relax.transform.RemoveRedundantReshape()),
        ("legalize", relax.transform.LegalizeOps()),
        ("annotate", relax.transform.AnnotateTIROpPattern()),
        ("fuse_ops", relax.transform.FuseOps()),
        ("fuse_tir", relax.transform.FuseTIR()),
        ("views", relax.transform.RewriteDataflowReshape()),
        ("schedule", dlight.ApplyDefaultSchedule(*schedules.table.rules(device(target)))),
    ]


def lower(
    mod: tvm.IRModule,
    target: Target,
    *,
    group: KernelGroup | None = None,
    winograd: bool = True,
    dtype: str = "float32",
    records: Sequence[RecordSet] = (),
    accumulate: str = "float32",
    dump: Path | None = None,
) -> tvm.IRModule:
    """Run all phases; with ``dump``, write the module after each into that folder."""
    with target:
        settings = {"winograd": winograd, "dtype": dtype, "accumulate": accumulate}
        listed = phases(target, group, records=records, **settings)
        for index, (name, phase) in enumerate(listed):
            mod = phase(mod)
            if dump is not None:
                dump.mkdir(parents=True, exist_ok=True)
                (dump / f"{index}_{name}.py").write_text(mod.script(), encoding="utf-8")
    return mod


def device(target: Target) -> str:
    """The row of ``schedules.table`` that serves the target."""
    rows = {"llvm": "cpu", "opencl": "adreno"}
    if target.kind.name not in rows:
        raise ValueError(
            f"target kind {target.kind.name!r}: schedules are there for {', '.join(rows)} only"
        )
    return rows[target.kind.name]
