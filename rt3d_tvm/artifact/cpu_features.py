"""What compiled code uses beyond its architecture, and whether a processor has it.

Without a feature that its code uses a process dies of SIGILL, or computes something else: lzcnt is
bsr on a processor that has no lzcnt.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from rt3d_tvm.errors import InputError

# Of each architecture: the kernel's name of a feature, as in /proc/cpuinfo -> LLVM's, and its
# number in /sys/devices/system/cpu/modalias. On x86 that is a CPUID word and bit as the kernel
# counts them, on AArch64 a bit of HWCAP, from 64 on of HWCAP2. What compiled code cannot come to
# use (system instructions, cryptography) is left out.
FEATURES: dict[str, dict[str, tuple[str, int]]] = {
    "x86_64": {
        "pni": ("sse3", 0x080),
        "ssse3": ("ssse3", 0x089),
        "fma": ("fma", 0x08C),
        "sse4_1": ("sse4.1", 0x093),
        "sse4_2": ("sse4.2", 0x094),
        "movbe": ("movbe", 0x096),
        "popcnt": ("popcnt", 0x097),
        "avx": ("avx", 0x09C),
        "f16c": ("f16c", 0x09D),
        "abm": ("lzcnt", 0x0C5),
        "sse4a": ("sse4a", 0x0C6),
        "xop": ("xop", 0x0CB),
        "fma4": ("fma4", 0x0D0),
        "tbm": ("tbm", 0x0D5),
        "bmi1": ("bmi", 0x123),
        "avx2": ("avx2", 0x125),
        "bmi2": ("bmi2", 0x128),
        "avx512f": ("avx512f", 0x130),
        "avx512dq": ("avx512dq", 0x131),
        "avx512ifma": ("avx512ifma", 0x135),
        "avx512cd": ("avx512cd", 0x13C),
        "avx512bw": ("avx512bw", 0x13E),
        "avx512vl": ("avx512vl", 0x13F),
        "avx_vnni": ("avxvnni", 0x184),
        "avx512_bf16": ("avx512bf16", 0x185),
        "avx_ifma": ("avxifma", 0x197),
        "avx512vbmi": ("avx512vbmi", 0x201),
        "avx512_vbmi2": ("avx512vbmi2", 0x206),
        "gfni": ("gfni", 0x208),
        "avx512_vnni": ("avx512vnni", 0x20B),
        "avx512_bitalg": ("avx512bitalg", 0x20C),
        "avx512_vpopcntdq": ("avx512vpopcntdq", 0x20E),
        "amx_bf16": ("amx-bf16", 0x256),
        "avx512_fp16": ("avx512fp16", 0x257),
        "amx_tile": ("amx-tile", 0x258),
        "amx_int8": ("amx-int8", 0x259),
    },
    "aarch64": {
        "atomics": ("lse", 8),
        "asimdhp": ("fullfp16", 10),
        "asimddp": ("dotprod", 20),
        "sve": ("sve", 22),
        "asimdfhm": ("fp16fml", 23),
        "sve2": ("sve2", 64 + 1),
        "i8mm": ("i8mm", 64 + 13),
        "bf16": ("bf16", 64 + 14),
    },
}
_AT_HWCAP, _AT_HWCAP2 = 16, 26
# Kernels differ in the numbers that modalias has for the bits of HWCAP2.
_HWCAP2 = 64


def needed(machine: str, llvm_features: Collection[str]) -> dict[str, int]:
    """The features of code that LLVM may use those in: the kernel's name and number of each."""
    known = FEATURES.get(machine, {}).items()
    return {name: number for name, (llvm, number) in known if llvm in llvm_features}


def lacking_here(features: Mapping[str, int]) -> list[str]:
    """Those of the features, as `needed` has them, that this machine's processor has not.

    Empty where the processor cannot be asked, because the system has no /proc/cpuinfo.
    """
    if platform.machine() == "aarch64":
        # /proc/cpuinfo is another machine's where the processor is emulated.
        ask = ctypes.CDLL(None).getauxval
        ask.argtypes, ask.restype = [ctypes.c_ulong], ctypes.c_ulong
        bits = ask(_AT_HWCAP) | ask(_AT_HWCAP2) << _HWCAP2
        return [name for name, number in features.items() if not bits >> number & 1]
    present = _cpuinfo_flags(Path("/proc/cpuinfo"))
    return [name for name in features if name not in present] if present else []


def lacking_there(code: Mapping, numbers: Collection[int]) -> list[str]:
    """What code needs, by a manifest's ``processor``, and a processor with those numbers has not.

    numbers: of its modalias. Empty where there are none; what only HWCAP2 tells is taken to be
    there.
    """
    asked = {
        name: number
        for name, number in code["features"].items()
        if code["machine"] != "aarch64" or number < _HWCAP2
    }
    return [name for name, number in asked.items() if number not in numbers] if numbers else []


def check_runs_here(manifest: dict, folder: Path) -> None:
    """InputError where this machine cannot run the code of an artifact; it says what is missing."""
    code, here = manifest["processor"], platform.machine()
    if code["machine"] != here:
        raise InputError(
            f"{folder}: compiled for {code['machine']}, this machine is {here}; `rt3d remote` runs "
            "it on a device"
        )
    if missing := lacking_here(code["features"]):
        raise InputError(
            f"{folder}: compiled for target {manifest['target']['name']}, this processor has no "
            f"{', '.join(missing)}; compile for target host here, or for one without"
        )


def _cpuinfo_flags(path: Path) -> set[str]:
    """The names in the first processor's line of features; empty where there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()
