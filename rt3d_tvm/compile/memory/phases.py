"""Where tensors lie: the phases that turn calls into calls on storages laid out beforehand."""

from __future__ import annotations

from types import ModuleType

import tvm
from tvm import relax
from tvm.ir.transform import Pass
from tvm.target import Target

from rt3d_tvm.compile.ir.dataflow import bindings, is_op
from rt3d_tvm.compile.memory.share_storages import ALLOC_STORAGE, ShareStorages


def memory_phases(relax_backend: ModuleType, target: Target) -> list[tuple[str, Pass]]:
    """Names and passes, in order, for a module whose constants are lifted.

    relax_backend: the pipeline of TVM's whose steps lower the calls.
    """
    lowered = relax_backend.dataflow_lower_passes(target)
    return [
        ("lower_calls", tvm.transform.Sequential(lowered)),
        ("plan_memory", relax.transform.StaticPlanBlockMemory()),
        ("share_storages", ShareStorages()),
    ]


def planned_bytes(mod: tvm.IRModule) -> tuple[int, int]:
    """Bytes of all storages of a planned module, and of the largest of them."""
    sizes = [
        int(binding.value.args[0].values[0])
        for binding in bindings(mod["main"])
        if is_op(binding.value, ALLOC_STORAGE)
    ]
    return sum(sizes), max(sizes, default=0)
