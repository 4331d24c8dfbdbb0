"""What depends on the kind of device: one row for each, and the only place that asks for it."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import tvm
from tvm.relax.backend.cpu_generic import pipeline as cpu_pipeline
from tvm.relax.backend.gpu_generic import pipeline as gpu_pipeline
from tvm.target import Target
from tvm.target.codegen import target_has_features

from rt3d_tvm.artifact.opencl.plan import Plan
from rt3d_tvm.compile.ir.packed_operators import Maker
from rt3d_tvm.compile.kernels.candidates import CPU_CANDIDATES
from rt3d_tvm.compile.kernels.kernel import Candidate
from rt3d_tvm.compile.kernels.opencl import OPENCL_CANDIDATES
from rt3d_tvm.compile.kernels.operators import CPU_OPERATORS
from rt3d_tvm.compile.opencl.lowering import tir_pipeline
from rt3d_tvm.compile.opencl.operators import item_operators
from rt3d_tvm.compile.opencl.planner import make_plan
from topi_sparse import packed
from topi_sparse.cpu.dot_unit import DotUnit, dot_unit
from topi_sparse.cpu.register_tile import VectorUnit, vector_unit
from topi_sparse.opencl.pack import opencl_pack
from topi_sparse.opencl.work_item import WorkItem, item_copies, work_item


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One kind of device.

    name           its row of `schedules.table`
    on_gpu         whether kernels are launched on a device beside the processor's cores
    candidates     the kernels that can compute a convolution
    unit           of a target, the type of activations and that of sums: what a tile is made for
    dot_unit       of a target: its 8-bit arithmetic, or None where it has no kernels for it
    packer         of a unit: what makes the PrimFunc that packs plain activations
    operators      of a target: packed operators that it has kernels of its own for
    device_class   what two targets have in common where tuned records of one hold for the other
    computes_half  whether kernels for a target can compute in float16
    why_no_sums    why the type of the sums cannot be chosen, or None where it can
    relax_backend  the pipeline of TVM's that lowers Relax
    tir_pipeline   the name of the one that lowers kernels
    plan           of a planned module, target and number of inputs: its launches, or None
    """

    name: str
    on_gpu: bool
    candidates: Sequence[Candidate]
    unit: Callable[[Target, str, str], VectorUnit | WorkItem]
    dot_unit: Callable[[Target], DotUnit | None]
    packer: Callable[[VectorUnit | WorkItem], Callable[..., tvm.tirx.PrimFunc]]
    operators: Callable[[Target], Mapping[str, Maker]]
    device_class: Callable[[Target], str]
    computes_half: Callable[[Target], bool]
    why_no_sums: str | None
    relax_backend: ModuleType
    tir_pipeline: Callable[[], str]
    plan: Callable[..., Plan] | None


def _cpu_class(target: Target) -> str:
    """The architecture, the vectors, and the number of cores that the work is cut for."""
    unit = vector_unit(target)
    machine = str(target.attrs.get("mtriple", platform.machine())).partition("-")[0]
    cores = int(target.attrs.get("num-cores", 1))
    return f"{machine}-{32 * unit.lanes}bit-{32 * unit.pipe_lanes}pipes-{cores}cores"


# By the kind of a TVM target.
BACKENDS = {
    "llvm": Backend(
        name="cpu",
        on_gpu=False,
        candidates=CPU_CANDIDATES,
        unit=lambda target, dtype, _sums: vector_unit(target, dtype),
        dot_unit=dot_unit,
        packer=lambda _unit: packed.pack,
        operators=lambda _target: CPU_OPERATORS,
        device_class=_cpu_class,
        # ARMv8.2's fullfp16; x86-64 has none before AVX512-FP16, which is not used.
        computes_half=lambda target: target_has_features("fullfp16", target),
        why_no_sums="adds up in the type of the activations; adreno and opencl have a choice",
        relax_backend=cpu_pipeline,
        tir_pipeline=lambda: "default",
        plan=None,
    ),
    "opencl": Backend(
        name="opencl",
        on_gpu=True,
        candidates=OPENCL_CANDIDATES,
        unit=work_item,
        dot_unit=lambda _target: None,
        packer=lambda item: functools.partial(opencl_pack, beside=item_copies(item)),
        operators=lambda target: item_operators(work_item(target)),
        device_class=lambda target: str(target.keys[0]),
        # An extension that a device has or not: known where the model is loaded.
        computes_half=lambda target: True,
        why_no_sums=None,
        relax_backend=gpu_pipeline,
        tir_pipeline=tir_pipeline,
        plan=make_plan,
    ),
}


def backend_of(target: Target) -> Backend:
    """The row that serves a target; ValueError names the kinds there are."""
    kind = target.kind.name
    if kind not in BACKENDS:
        raise ValueError(f"target kind {kind!r}: there are kernels for {', '.join(BACKENDS)} only")
    return BACKENDS[kind]


def device_class(target: Target) -> str:
    """What two targets have in common where tuned records of one hold for the other."""
    return backend_of(target).device_class(target)
