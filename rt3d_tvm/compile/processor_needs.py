"""What a target's code needs of the processor that it runs on."""

from __future__ import annotations

import platform

from tvm.target import Target
from tvm.target.codegen import llvm_get_cpu_features

from rt3d_tvm.artifact.cpu_features import FEATURES, lacking_here, needed


def processor_needs(target: Target) -> dict:
    """The architecture of a target's code, and the features it may use beyond that, as `needed`.

    Of a target whose kernels run elsewhere, those of its host.
    """
    of = target.host or target
    triple = str(of.attrs.get("mtriple", platform.machine()))
    machine = triple.partition("-")[0]
    return {"machine": machine, "features": needed(machine, llvm_get_cpu_features(of))}


def masked_here(target: Target) -> list[str]:
    """LLVM's names of features that the target's processor has and this one, its like, does not.

    A virtual machine may hide features of its processor, whose name LLVM finds all the same.
    """
    needs = processor_needs(target)
    known = FEATURES.get(needs["machine"], {})
    return [known[name][0] for name in lacking_here(needs["features"])]
