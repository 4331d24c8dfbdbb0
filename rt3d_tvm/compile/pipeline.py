"""From imported Relax to code: the one list of phases, in two parts.

Between the two, `lift_constants` takes the weights out of the module: they go into a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import tvm
from tvm import relax
from tvm.ir.transform import Pass
from tvm.s_tir import dlight

import schedules.table
from rt3d_tvm.compile.choices.records import RecordSet
from rt3d_tvm.compile.extension import Phases
from rt3d_tvm.compile.legalize import LOOPS
from rt3d_tvm.compile.memory.phases import memory_phases
from rt3d_tvm.compile.opencl.check_axes import CheckAxes
from rt3d_tvm.compile.opencl.distinct_names import DistinctNames
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.compile.passes.bounded_take import BoundedTake
from rt3d_tvm.compile.passes.broadcasts import Broadcasts
from rt3d_tvm.compile.passes.channel_moves import ChannelMoves
from rt3d_tvm.compile.passes.check_calls import CheckCalls
from rt3d_tvm.compile.passes.clip import ClipAsOperators
from rt3d_tvm.compile.passes.compact_conv3d import CompactConv3d
from rt3d_tvm.compile.passes.conv2d import Conv2dAsConv3d
from rt3d_tvm.compile.passes.conv2plus1d import Conv2Plus1D
from rt3d_tvm.compile.passes.evaluate_constants import EvaluateConstants
from rt3d_tvm.compile.passes.fully_connected import FullyConnectedAsConv3d
from rt3d_tvm.compile.passes.group_norms import GroupNorms
from rt3d_tvm.compile.passes.keep_packed import KeepPacked
from rt3d_tvm.compile.passes.kept_axes import KeptAxes
from rt3d_tvm.compile.passes.limit_fusion import LimitFusion
from rt3d_tvm.compile.passes.move_dequantize import MoveDequantize
from rt3d_tvm.compile.passes.own_result import OwnResult
from rt3d_tvm.compile.passes.pruned_filters import PrunedFilters
from rt3d_tvm.compile.passes.quantized_conv3d import QuantizedConv3d
from rt3d_tvm.compile.passes.tuned_kernels import TunedKernels
from rt3d_tvm.compile.passes.written_out import WrittenOut
from rt3d_tvm.compile.passes.zero_factors import ZeroFactors
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.files.folders import check_makeable, check_outside, make_folder
from rt3d_tvm.files.whole_file import whole_file

# How every module that is written as a script begins.
_SCRIPT = b"# from tvm.script import "


def phases(
    lowering: Lowering, records: Sequence[RecordSet] = (), extension: Phases | None = None
) -> list[tuple[str, Pass]]:
    """Names and passes up to scheduled kernels, in order.

    ``records``: tuned choices; of several for a kernel those of the first set. ``extension``: what
    else is done, by passes and schedules from outside.
    """
    target = lowering.target
    compact = CompactConv3d(
        target,
        lowering.group,
        winograd=lowering.winograd,
        dtype=lowering.precision.dtype,
        accumulate=lowering.accumulate,
    )
    rules = schedules.table.rules(lowering.backend.name)
    if extension is not None:
        rules = (*extension.rules, *rules)
    listed = [
        ("zero_factors", ZeroFactors()),
        ("evaluate_constants", EvaluateConstants()),
        ("clip", ClipAsOperators()),
        ("written_out", WrittenOut()),
        ("bounded_take", BoundedTake()),
        ("kept_axes", KeptAxes()),
        ("broadcasts", Broadcasts()),
        # A pool or a view between a dequantisation and a layer would keep the layer in float32.
        ("move_before_layers", MoveDequantize()),
        # Before the weights are folded into real numbers.
        ("quantized_conv3d", QuantizedConv3d(target, lowering.group)),
        ("move_dequantize", MoveDequantize()),
        ("fold_constants", relax.transform.FoldConstant()),
        # Splits, so that a picture's parts stay on its clip; after it, shuffles of clips.
        ("splits", ChannelMoves()),
        ("conv2d", Conv2dAsConv3d()),
        ("fully_connected", FullyConnectedAsConv3d()),
        ("pruned_filters", PrunedFilters()),
        ("channel_moves", ChannelMoves()),
        # A reshape there and back between two layers would keep them from one layout.
        ("merge_views", relax.transform.RemoveRedundantReshape()),
        ("compact_conv3d", compact),
        ("group_norms", GroupNorms(target, lowering.precision.dtype)),
        ("keep_packed", KeepPacked(target)),
        ("conv2plus1d", Conv2Plus1D(target)),
        ("tuned_kernels", TunedKernels(target, records, lowering.group)),
        ("check_calls", CheckCalls()),
        ("merge_reshapes", relax.transform.RemoveRedundantReshape()),
        ("own_result", OwnResult()),
        ("legalize", relax.transform.LegalizeOps(LOOPS)),
        ("annotate", relax.transform.AnnotateTIROpPattern()),
        ("limit_fusion", LimitFusion()),
        ("fuse_ops", relax.transform.FuseOps()),
        ("fuse_tir", relax.transform.FuseTIR()),
        ("views", relax.transform.RewriteDataflowReshape()),
        *([("check_axes", CheckAxes())] if lowering.backend.on_gpu else []),
        ("schedule", dlight.ApplyDefaultSchedule(*rules)),
    ]
    return listed if extension is None else extension.applied(listed)


def extensible_phases() -> Phases:
    """The names of the phases that every target has, to put others between them."""
    listed = phases(Lowering(target=make_target("host")))
    return Phases(names=tuple(name for name, _ in listed))


def storage_phases(lowering: Lowering) -> list[tuple[str, Pass]]:
    """Names and passes from lifted constants to calls on planned storages, in order."""
    listed = memory_phases(lowering.backend.relax_backend, lowering.target)
    if lowering.backend.plan is not None:  # model.so and the plan are of the same source
        listed.append(("distinct_names", DistinctNames()))
    return listed


def lower(
    mod: tvm.IRModule,
    lowering: Lowering,
    *,
    records: Sequence[RecordSet] = (),
    extension: Phases | None = None,
    dump: Path | None = None,
) -> tvm.IRModule:
    """Run all of ``phases``; with ``dump``, write the module after each into that folder."""
    return run_phases(mod, lowering, phases(lowering, records, extension), dump=dump)


def run_phases(
    mod: tvm.IRModule,
    lowering: Lowering,
    listed: Iterable[tuple[str, Pass]],
    *,
    dump: Path | None = None,
    first: int = 0,
) -> tvm.IRModule:
    """Run phases in order; those written into ``dump`` are numbered from ``first``.

    InputError for a folder that cannot be written in, or has files of theirs that are no modules.
    """
    listed = list(listed)
    names = [f"{index}_{name}.py" for index, (name, _) in enumerate(listed, first)]
    if dump is not None:
        _begin_dump(dump, names)
    with lowering.target:
        for name, (_, phase) in zip(names, listed, strict=True):
            try:
                mod = phase(mod)
            except RuntimeError as error:  # TVM's own; a pass of this project says ValueError
                raise InputError(f"phase {name}: {cannot_lower(error)}") from error
            if dump is not None:
                with whole_file(dump / name) as temporary:
                    temporary.write_text(mod.script(), encoding="utf-8")
    return mod


def without_asserts() -> tvm.transform.PassContext:
    """The context to generate code in: kernels do not check their arguments at each call.

    Whatever calls them is compiled beside them, and the model's own inputs are checked before. The
    checks were three quarters of the code of a small model, and half of the time to generate it.
    """
    now = tvm.transform.PassContext.current()
    config = {**now.config, "tirx.disable_assert": True}
    return tvm.transform.PassContext(now.opt_level, instruments=now.instruments, config=config)


def check_dump(folder: Path, *, outside: Path) -> None:
    """InputError for a folder that modules cannot be written in, or that will be replaced."""
    check_outside(folder, outside)
    check_makeable(folder)


def _begin_dump(folder: Path, names: Sequence[str]) -> None:
    """Make the folder; InputError where one of the files is there and is of something else."""
    for path in (folder / name for name in names):
        if path.exists() and not path.read_bytes().startswith(_SCRIPT):
            raise InputError(f"{path}: is no module that was written there before; it is kept")
    make_folder(folder)


def cannot_lower(error: Exception) -> str:
    """What TVM says of a model that it cannot lower, without the stack of its calls."""
    return f"TVM cannot lower this model: {words_of(error, lines=1)}"
