"""Names a user types -> TVM targets."""

from __future__ import annotations

from tvm.target import Target
from tvm.target.codegen import llvm_get_system_cpu

from rt3d_tvm.artifact.threads import available_cores
from rt3d_tvm.compile.processor_needs import masked_here
from rt3d_tvm.errors import InputError

_X86 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}
_ARM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "num-cores": 8}

_ADRENO = {"tag": "qcom/adreno-opencl"}

# num-cores decides how finely kernels are split; any machine may run them with other numbers.
TARGETS: dict[str, dict] = {
    "x86-64-avx512": {**_X86, "mcpu": "skylake-avx512", "num-cores": 2},
    "x86-64-avx512-vnni": {**_X86, "mcpu": "cascadelake", "num-cores": 2},
    "x86-64-avx2": {**_X86, "mcpu": "haswell", "num-cores": 2},
    "x86-64-avx2-vnni": {**_X86, "mcpu": "haswell", "mattr": ["+avxvnni"], "num-cores": 2},
    "arm64": {**_ARM, "mattr": ["+neon"]},
    "arm64-dotprod": {**_ARM, "mattr": ["+neon", "+v8.2a", "+dotprod"]},
    "arm64-i8mm": {**_ARM, "mattr": ["+neon", "+v8.2a", "+fullfp16", "+dotprod", "+i8mm"]},
    "arm64-v8.2": {**_ARM, "mattr": ["+neon", "+v8.2a", "+fullfp16"]},
    "cortex-a77": {**_ARM, "mcpu": "cortex-a77", "mattr": ["+neon"]},
    "adreno": {**_ADRENO, "host": {**_ARM, "mattr": ["+neon"]}},
    "opencl": {"kind": "opencl", "host": _X86},
}
# The precision where the user names none, if it is not fp32.
DEFAULT_PRECISION = {"adreno": "fp16"}


def make_target(name: str) -> Target:
    """The target of that name; "host" is this machine. InputError names the known ones."""
    if name == "host":
        here = {"kind": "llvm", "mcpu": llvm_get_system_cpu(), "num-cores": available_cores()}
        masked = [f"-{feature}" for feature in masked_here(Target(here))]
        return Target({**here, "mattr": masked} if masked else here)
    if name not in TARGETS:
        known = ", ".join(["host", *sorted(TARGETS)])
        raise InputError(f"unknown target {name!r}; known: {known}")
    return Target(TARGETS[name])
