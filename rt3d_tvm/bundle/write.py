"""An artifact -> a folder with the model as one C library, which needs no TVM."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from rt3d_tvm.artifact.calls import CallList
from rt3d_tvm.artifact.format import WEIGHTS, ArtifactFiles
from rt3d_tvm.artifact.opencl.plan import PLAN
from rt3d_tvm.bundle.elf import Symbol, renamed, symbols
from rt3d_tvm.bundle.tables import ANSWERED, KERNEL_PREFIX, SOURCES, Model, filled, header, model_c
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.digest import file_sha256

BUNDLE, FORMAT = "bundle.json", 1
_RUNTIME = ("runtime.c", "tables.h", "kernels.h", "threads.h", "weights.h", "processor.h")
# Of the C library: what code that LLVM makes may call by itself, or where a kernel needs it.
_MEMORY = {"memset", "memcpy", "memmove"}
_MATHS = """
    acos acosh asin asinh atan atan2 atanh ceil cos cosh erf exp exp2 exp10 floor fma fmax fmin fmod
    hypot ldexp log log10 log1p log2 nearbyint pow rint round roundeven sin sinh sqrt tan tanh trunc
"""
_FROM_C = {*_MEMORY, *_MATHS.split(), *(f"{name}f" for name in _MATHS.split())}
# Of C and C++.
_KEYWORDS = """
    alignas alignof and asm auto bool break case catch char class const constexpr continue decltype
    default delete do double else enum explicit export extern false float for friend goto if inline
    int long main mutable namespace new noexcept not nullptr operator or private protected public
    register requires restrict return short signed sizeof static struct switch template this throw
    true try typedef typeid typename union unsigned using virtual void volatile while xor
"""
# Of the artifact's manifest: what describes the model.
_DESCRIBED = (
    *("model", "target", "processor", "versions", "precision", "inputs", "outputs"),
    *("preprocessing", "labels", "layers", "calls", "planned_activation_bytes", "weight_bytes"),
)


def write_library(folder: Path, made: Path, *, name: str, embed: bool) -> dict:
    """Write an artifact as a C library into the empty folder ``made``; returns what describes it.

    InputError for an artifact that is damaged, that is for OpenCL, or that asks a runtime for what
    this one has not.
    """
    files = ArtifactFiles.open(folder)
    if PLAN in files.manifest["sha256"]:
        raise InputError(f"{folder}: compiled for OpenCL; a model for a CPU becomes a C library")
    calls, kernels = CallList.of_files(files), files.kernels()
    files.weights()  # checked here, and no copy of what is damaged made
    if unknown := unanswered(kernels):
        raise InputError(
            f"{folder}: its kernels call {', '.join(unknown)}, which the C runtime has not; run "
            "this model with TVM's"
        )
    model = Model(name=name, files=files, calls=calls, embedded=embed)

    def own(symbol: Symbol) -> str:
        """Two libraries may be linked into one program, or beside TVM."""
        is_own = symbol.defined or symbol.name in ANSWERED
        return f"{name}_{symbol.name}" if is_own else symbol.name

    (made / f"{name}.o").write_bytes(renamed(kernels, own))
    (made / f"{name}.h").write_text(header(model), encoding="utf-8")
    (made / f"{name}.c").write_text(model_c(model), encoding="utf-8")
    for source in _RUNTIME:
        shutil.copyfile(SOURCES / source, made / source)
    shutil.copyfile(folder / WEIGHTS, made / WEIGHTS)
    if embed:
        (made / "weights.S").write_text(filled("weights.S.in", NAME=name), encoding="utf-8")
    (made / "CMakeLists.txt").write_text(_cmake(name, files, embed), encoding="utf-8")
    return {"name": name, "embedded": embed, "programs": [], **_about(files)}


def describe(made: Path, about: dict) -> dict:
    """Write `BUNDLE` into a folder, with the checksums of all else in it; returns its content."""
    found = {"bundle": FORMAT, **about}
    found["sha256"] = {
        path.name: file_sha256(path)
        for path in sorted(made.iterdir())
        if path.is_file() and path.name != BUNDLE
    }
    (made / BUNDLE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def read_bundle(folder: Path) -> dict:
    """What a bundle says of itself; InputError for a folder that is none, or is damaged."""
    try:
        found = json.loads((folder / BUNDLE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no {BUNDLE} in it; `rt3d bundle` makes one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / BUNDLE}: cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("bundle") != FORMAT:
        raise InputError(f"{folder / BUNDLE}: not of this version; bundle the model again")
    return found


def check_bundle(folder: Path, names: Iterable[str]) -> None:
    """InputError unless those files of a bundle are there as they were written."""
    sums = read_bundle(folder)["sha256"]
    for name in names:
        if name not in sums or not (folder / name).is_file():
            raise InputError(f"{folder}: no {name} in it; bundle the model again")
        if file_sha256(folder / name) != sums[name]:
            raise InputError(f"{folder / name}: damaged, or changed since it was written")


def why_kept(folder: Path) -> str | None:
    """Why the files in a folder are not those of a bundle alone; None where they are."""
    try:
        listed = {BUNDLE, *read_bundle(folder)["sha256"]}
    except (InputError, KeyError, TypeError):
        listed = set()
    if others := sorted({path.name for path in folder.iterdir()} - listed):
        return (
            f"holds other files ({', '.join(others[:3])}); a bundle replaces a bundle, an empty "
            "folder or nothing"
        )
    return None


def check_name(name: str) -> None:
    """InputError for what can be no prefix of C's names."""
    if not re.fullmatch("[a-z][a-z0-9_]{0,39}", name) or name in _KEYWORDS.split():
        raise InputError(
            f"name {name!r:.60}: letters a to z, digits and _ are accepted, a letter first, at "
            "most 40, and no word of C's or C++'s own"
        )


def unanswered(kernels: bytes) -> list[str]:
    """What an object file of kernels asks a runtime for that only TVM's has."""
    found = {
        symbol.name
        for symbol in symbols(kernels)
        if not (symbol.defined and symbol.name.startswith(KERNEL_PREFIX))
        and (not symbol.defined or symbol.name.startswith("__TVM"))
    }
    return sorted(found - ANSWERED - _FROM_C)


def _about(files: ArtifactFiles) -> dict:
    manifest = files.manifest
    return {
        "artifact": manifest["id"],
        **{key: manifest[key] for key in _DESCRIBED if key in manifest},
    }


def _cmake(name: str, files: ArtifactFiles, embed: bool) -> str:
    parts = {"ASM": "", "EMBEDDED_SOURCE": "", "EMBED": ""}
    if embed:
        parts = {
            "ASM": " ASM",
            "EMBEDDED_SOURCE": " weights.S",
            "EMBED": "\n# Where weights.S finds weights.bin.\n"
            "set_source_files_properties(weights.S PROPERTIES COMPILE_OPTIONS "
            '"-I${CMAKE_CURRENT_SOURCE_DIR}" OBJECT_DEPENDS '
            "${CMAKE_CURRENT_SOURCE_DIR}/weights.bin)",
        }
    return filled(
        "CMakeLists.txt.in",
        NAME=name,
        GUARD_NAME=name.upper(),
        MACHINE=files.manifest["processor"]["machine"],
        **parts,
    )
