"""An ONNX file or an artifact -> a bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from rt3d_tvm.arguments import as_flag, as_path
from rt3d_tvm.artifact.format import MANIFEST, ArtifactFiles, read_manifest
from rt3d_tvm.bundle.program import check_programs, write_programs
from rt3d_tvm.bundle.write import check_name, describe, why_kept, write_library
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.folders import check_replaceable, whole_folder
from rt3d_tvm.files.staging import scratch_folder


def bundle(
    source: str | Path,
    out_dir: str | Path,
    *,
    target: str | None = None,
    name: str = "model",
    embed: bool = False,
    programs: Sequence[str] = (),
    onnx: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    **settings: object,
) -> dict:
    """Write a model as a C library into the folder ``out_dir``; returns what bundle.json says.

    source: an ONNX file, which is compiled for ``target`` ("host" by default) with ``settings``,
    those of `compile_onnx`; or the folder of an artifact, which was. The folder appears whole or
    not at all; one that exists is replaced only if it is a bundle. name: of the library, its files
    and its functions. embed: the weights are a part of the library instead of a file that it maps.
    programs: bench, classify or both, each linked as one static file. bench compares its output
    with what ONNX Runtime gives for the ONNX file, of an artifact for the file ``onnx``. InputError
    for a model that does not compile, for an artifact that is damaged or for OpenCL, and for one
    that asks a runtime for what this one has not.
    """
    source, out_dir = as_path(source, "source"), as_path(out_dir, "out_dir")
    embed, programs = as_flag(embed, "embed"), check_programs(programs)
    onnx = None if onnx is None else as_path(onnx, "onnx")
    check_name(name)
    if onnx is not None and not (source.is_dir() and "bench" in programs):
        raise InputError(
            f"onnx {onnx}: is what the program bench checks the output of a folder of rt3d compile "
            "by; leave it out of an ONNX file, and without that program"
        )
    check_replaceable(out_dir, why_kept=why_kept)
    report = progress or (lambda stage: None)
    with contextlib.ExitStack() as stack:
        artifact = source
        if source.is_dir():
            check_source(source, target, settings)
        else:
            onnx = onnx or source
            artifact = stack.enter_context(scratch_folder("rt3d-bundle-")) / "artifact"
            compiled(source, artifact, target or "host", report, settings)
        made = stack.enter_context(whole_folder(out_dir, why_kept=why_kept))
        report("bundle")
        about = write_library(artifact, made, name=name, embed=embed)
        if programs:
            report("link, which the first time builds a C library for the target")
            about["programs"] = list(programs)
            write_programs(made, programs, about, ArtifactFiles.open(artifact), onnx)
        return describe(made, about)


def compiled(
    onnx_path: Path,
    folder: Path,
    target: str,
    progress: Callable[[str], None],
    settings: dict,
) -> None:
    """Compile an ONNX file as `compile_onnx` does."""
    from rt3d_tvm.compile.build import compile_onnx

    compile_onnx(onnx_path, folder, target=target, progress=progress, **settings)


def check_source(folder: Path, target: str | None, settings: dict) -> None:
    """InputError where something is asked of an artifact that was settled when it was compiled."""
    if settings:
        raise InputError(f"{folder} is compiled already: {', '.join(settings)} has no effect on it")
    compiled_for = read_manifest(folder / MANIFEST)["target"]["name"]
    if target not in (None, compiled_for):
        raise InputError(
            f"{folder}: compiled for target {compiled_for}, not {target}; bundle the ONNX file, or "
            "compile it for that target"
        )
