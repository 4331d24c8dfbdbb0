"""Programs of a bundle: one static file that runs from its folder, for any Linux or Android."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rt3d_tvm.artifact.cpu_features import check_runs_here
from rt3d_tvm.artifact.format import ArtifactFiles
from rt3d_tvm.artifact.tensors import arrays, noise, the_one
from rt3d_tvm.bundle.static_link import check_linker, link_static
from rt3d_tvm.bundle.tables import SOURCES
from rt3d_tvm.data.preprocessing import Preprocessing, from_fields
from rt3d_tvm.errors import InputError
from rt3d_tvm.precision import PRECISIONS, QUANTIZED

PROGRAMS = ("bench", "classify")
# What each is made of besides the library, and what lies beside it when it runs.
_SOURCES = {"bench": ("bench.c", "device.h"), "classify": ("classify.c", "clip.h", "frames.h")}
_SHARED = ("program.c", "process.h")
INPUT, EXPECTED, LABELS = "input", "expected", "labels.txt"
_INPUT_SEED = 0


def check_programs(programs: Sequence[str]) -> tuple[str, ...]:
    """The names, each once; InputError for one that there is not, and without a linker for them."""
    if unknown := [name for name in programs if name not in PROGRAMS]:
        raise InputError(f"program {unknown[0]!r:.60}: {' or '.join(PROGRAMS)} is accepted")
    if programs:
        check_linker()
    return tuple(dict.fromkeys(programs))


def write_programs(
    made: Path,
    programs: Sequence[str],
    about: dict,
    files: ArtifactFiles,
    onnx_path: Path | None,
) -> None:
    """Link programs in the folder of a bundle, with what lies beside them.

    about: what describes the bundle. onnx_path: the model file; ONNX Runtime then says what output
    to expect, and otherwise the artifact does where this machine can run it.
    """
    if not programs:
        return
    described = from_fields(files.manifest, f"{files.folder}: manifest.json")
    settings = {**_model(about), **_check_of(files.manifest)}
    if "classify" in programs:
        settings |= _clips(files, described.preprocessing)
        if described.labels is not None:
            text = "".join(f"{label}\n" for label in described.labels)
            (made / LABELS).write_text(text, encoding="utf-8")
    if "bench" in programs:
        _write_expected(made, files, onnx_path)
    lines = [f"#define {name} {value}" for name, value in settings.items()]
    text = "\n".join([f'#include "{about["name"]}.h"', "", *lines, ""])
    (made / "program.h").write_text(text, encoding="utf-8")
    for name in (*_SHARED, *(source for program in programs for source in _SOURCES[program])):
        shutil.copyfile(SOURCES / name, made / name)
    for program in programs:
        _link(made, program, about)


def _model(about: dict) -> dict[str, object]:
    name = about["name"]
    return {
        "MODEL(function)": f"{name}_##function",
        "MODEL_TYPE": name,
        "ARTIFACT": f'"{about["artifact"]}"',
        "EMBEDDED": int(about["embedded"]),
    }


def _check_of(manifest: dict) -> dict[str, object]:
    """How far an output may be from the expected one."""
    precision = manifest.get("precision", {})
    return {"LIMIT": precision.get("max_rel_error", PRECISIONS["fp32"].max_rel_error)}


def _clips(files: ArtifactFiles, used: Preprocessing | None) -> dict[str, object]:
    """How frames become the input; InputError for a model that does not say it."""
    if used is None:
        raise InputError(
            f"{files.folder}: the model does not say how frames become its input, which program "
            "classify needs; rt3d export writes it into the ONNX file of this package's models"
        )
    short = used.resize if isinstance(used.resize, int) else 0
    height, width = (0, 0) if isinstance(used.resize, int) else used.resize
    taken = the_one(files.manifest, "inputs", "program classify")
    given = the_one(files.manifest, "outputs", "program classify")
    return {
        "BATCH": taken["shape"][0],
        "FRAMES": used.frames,
        "STRIDE": used.stride,
        "SIZE": used.size,
        "RESIZE_SHORT": short,
        "RESIZE_HEIGHT": height,
        "RESIZE_WIDTH": width,
        "CLASSES": given["shape"][-1],
        "MEAN": ", ".join(f"{value!r}f" for value in used.mean),
        "STD": ", ".join(f"{value!r}f" for value in used.std),
        "BLUE_FIRST": int(used.colour_order == "bgr"),
    }


def _write_expected(made: Path, files: ArtifactFiles, onnx_path: Path | None) -> None:
    """Random inputs, and the outputs that they should have, where something can tell."""
    for entry in files.manifest["inputs"]:
        if entry["dtype"] != "float32":
            raise InputError(
                f"{files.folder}: input {entry['name']} is {entry['dtype']}; bench takes float32"
            )
    inputs = arrays(noise(files.manifest, np.random.default_rng(_INPUT_SEED)))
    for number, x in enumerate(inputs):
        x.tofile(made / f"{INPUT}{number}.bin")
    entries = files.manifest["outputs"]
    expected = _expected(files, onnx_path, inputs)
    for number, (entry, y) in enumerate(zip(entries, expected, strict=bool(expected))):
        y.astype(entry["dtype"]).tofile(made / f"{EXPECTED}{number}.bin")


def _expected(
    files: ArtifactFiles, onnx_path: Path | None, inputs: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """All outputs; none where nothing here can tell."""
    names = [entry["name"] for entry in files.manifest["inputs"]]
    if onnx_path is not None:
        from rt3d_tvm.artifact.verify import reference_session

        optimised = files.manifest.get("precision", {}).get("name") == QUANTIZED.name
        session = reference_session(onnx_path, optimised=optimised)
        taken = [each.name for each in session.get_inputs()]
        return session.run(None, dict(zip(taken, inputs, strict=True)))
    try:
        check_runs_here(files.manifest, files.folder)
    except InputError:  # code for another processor, and nothing here to run it
        return []
    from rt3d_tvm.artifact.load import load

    return arrays(load(files.folder).run(dict(zip(names, inputs, strict=True))))


def _link(made: Path, program: str, about: dict) -> None:
    name, embedded = about["name"], ["weights.S"] if about["embedded"] else []
    sources = [f"{program}.c", f"{name}.c", f"{name}.o", *embedded]
    link_static(made, program, sources, machine=about["processor"]["machine"])
