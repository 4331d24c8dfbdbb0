"""Names a user types -> TVM targets."""

from __future__ import annotations

from tvm.target import Target
from tvm.target.codegen import llvm_get_system_cpu, target_has_features

from rt3d_tvm.artifact.load import available_cores
from rt3d_tvm.errors import InputError
from rt3d_tvm.precision import Precision

_X86 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}
_ARM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "num-cores": 8}

_ADRENO = {"tag": "qcom/adreno-opencl"}

# num-cores decides how finely kernels are split; any machine may run them with other numbers.
TARGETS: dict[str, dict] = {
    "x86-64-avx512": {**_X86, "mcpu": "skylake-avx512", "num-cores": 2},
    "x86-64-avx2": {**_X86, "mcpu": "haswell", "num-cores": 2},
    "arm64": {**_ARM, "mattr": ["+neon"]},
    "arm64-v8.2": {**_ARM, "mattr": ["+neon", "+v8.2a", "+fullfp16"]},
    "cortex-a77": {**_ARM, "mcpu": "cortex-a77", "mattr": ["+neon"]},
    "adreno": {**_ADRENO, "host": {**_ARM, "mattr": ["+neon"]}},
    "opencl": {"kind": "opencl", "host": _X86},
}


def make_target(name: str) -> Target:
    """The target of that name; "host" is this machine. InputError names the known ones."""
    if name == "host":
        return Target(
            {"kind": "llvm", "mcpu": llvm_get_system_cpu(), "num-cores": available_cores()}
        )
    if name not in TARGETS:
        known = ", ".join(["host", *sorted(TARGETS)])
        raise InputError(f"unknown target {name!r}; known: {known}")
    return Target(TARGETS[name])


def default_precision(name: str) -> str:
    """The precision of a target where the user names none: fp16 on a phone's GPU, else fp32."""
    return "fp16" if name == "adreno" else "fp32"


def check_precision(precision: Precision, target: Target, name: str) -> None:
    """InputError where the target, called ``name``, cannot compute in that precision."""
    if _computes_in(precision, target):
        return
    able = [known for known in sorted(TARGETS) if _computes_in(precision, Target(TARGETS[known]))]
    raise InputError(
        f"precision {precision.name}: target {name} has no {precision.dtype} arithmetic; accepted: "
        f"fp32 with any target, {precision.name} with {', '.join(able)}"
    )


def _computes_in(precision: Precision, target: Target) -> bool:
    """float16 takes ARMv8.2's fullfp16; x86-64 has none before AVX512-FP16, which is not used.

    Of OpenCL it takes an extension that a device has or not: known where the model is loaded.
    """
    if precision.dtype == "float32" or is_opencl(target):
        return True
    return target_has_features("fullfp16", target)


def is_opencl(target: Target) -> bool:
    """Whether a target's kernels are OpenCL C."""
    return target.kind.name == "opencl"
