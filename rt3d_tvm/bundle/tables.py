"""A list of calls -> the C file that has it as tables, and the header of the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path

import numpy as np

from rt3d_tvm.artifact.calls import CallList
from rt3d_tvm.artifact.format import ALIGNMENT, SEAL, WEIGHTS, ArtifactFiles

SOURCES = Path(__file__).with_name("c")
# DLPack's codes of the kinds of numpy's types.
TYPE_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
# What an object file may ask a runtime for: variables, and the functions that they are to hold.
_ASKED = {
    "__TVMBackendParallelLaunch": ("int", "Lambda, void *, int", "parallel_launch"),
    "__TVMBackendAllocWorkspace": ("void *", "int, int, uint64_t, int, int", "allocate_workspace"),
    "__TVMBackendFreeWorkspace": ("int", "int, int, void *", "free_workspace"),
}
RAISE = "TVMFFIErrorSetRaisedFromCStrParts"
HIDDEN = '#define HIDDEN __attribute__((visibility("hidden")))'
KERNEL_PREFIX = "__tvm_ffi_"
ANSWERED = {*_ASKED, RAISE}


@dataclass(frozen=True, kw_only=True)
class Model:
    """What the texts of a library are made of."""

    name: str
    files: ArtifactFiles
    calls: CallList
    embedded: bool

    @property
    def offsets(self) -> tuple[list[int], int]:
        """Where each storage begins in the arena, and how large that is."""
        sizes = [-(-size // ALIGNMENT) * ALIGNMENT for size in self.calls.storages]
        *starts, total = accumulate(sizes, initial=0)
        return starts, total


def model_c(model: Model) -> str:
    """The generated C file."""
    manifest, calls = model.files.manifest, model.calls
    functions = dict.fromkeys(call.function for call in calls.calls)
    counts = {
        "TENSORS": len(calls.tensors),
        "ARGUMENTS": sum(len(call.arguments) for call in calls.calls),
        "CALLS": len(calls.calls),
        "INPUTS": len(manifest["inputs"]),
        "OUTPUTS": len(manifest["outputs"]),
        "FEATURES": len(manifest["processor"]["features"]),
        "INDEX_TABLES": len(_index_tables(manifest)),
    }
    large = {"ARENA_BYTES": model.offsets[1], "SCRATCH_BYTES": calls.scratch}
    large["SEALED_BYTES"] = manifest["weight_bytes"]
    return "\n".join(
        [
            f"// {model.name}: written by rt3d bundle from artifact {manifest['id']}.",
            "#define _GNU_SOURCE",
            f'#include "{model.name}.h"',
            "",
            f"#define RAISE {model.name}_{RAISE}",
            '#include "tables.h"',
            "",
            f"#define MODEL(name) {model.name}_##name",
            f"#define MODEL_TYPE {model.name}",
            f"#define MODEL_TENSOR {model.name}_tensor",
            f"#define MACHINE {_text(manifest['processor']['machine'])}",
            *(f"#define {name} ((size_t){value})" for name, value in large.items()),
            f"enum {{ {', '.join(f'{name} = {value}' for name, value in counts.items())} }};",
            "",
            *_embedded(model),
            HIDDEN,
            *answers(model.name),
            *(
                f"HIDDEN int {_symbol(model, name)}(void *, const Any *, int32_t, Any *);"
                for name in functions
            ),
            "",
            *_checks(model),
            *_tensors(model),
            *_interface("input", model),
            *_interface("output", model),
            *_calls(model),
            "",
            '#include "runtime.c"',
            "",
        ]
    )


def header(model: Model) -> str:
    """The library's header."""
    manifest = model.files.manifest
    lines = [
        f" *   {kind} {number}: {_plain(each['name'])}, {each['dtype']} {each['shape']}"
        for kind in ("input", "output")
        for number, each in enumerate(manifest[f"{kind}s"])
    ]
    return filled(
        "model.h.in",
        NAME=model.name,
        MACHINE=manifest["processor"]["machine"],
        GUARD=f"{model.name.upper()}_H",
        INPUTS=str(len(manifest["inputs"])),
        OUTPUTS=str(len(manifest["outputs"])),
        TENSORS="\n".join(lines),
        PAD=" " * (len(model.name) - len("@NAME@") + len("@PAD@")),
    )


def filled(template: str, **values: str) -> str:
    """A template with its @NAMES@ replaced."""
    text = (SOURCES / template).read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _symbol(model: Model, function: str) -> str:
    return f"{model.name}_{KERNEL_PREFIX}{function}"


def answers(name: str) -> list[str]:
    """C's definitions of the variables in which kernels, all called ``name``_*, find a runtime."""
    return [
        f"HIDDEN {result} (*{name}_{variable})({arguments}) = {function};"
        for variable, (result, arguments, function) in _ASKED.items()
    ]


def _embedded(model: Model) -> list[str]:
    if not model.embedded:
        return []
    return [
        "#define EMBEDDED",
        f'extern const char {model.name}_weights[] __attribute__((visibility("hidden")));',
        f"#define embedded_weights {model.name}_weights",
    ]


def _checks(model: Model) -> list[str]:
    """What the processor has to have, and the weights."""
    manifest = model.files.manifest
    path = model.files.folder / WEIGHTS
    with path.open("rb") as file:
        kind, _, held, size, _ = SEAL.unpack(file.read(SEAL.size))
    kind_bytes, artifact = _bytes(kind), _bytes(bytes.fromhex(manifest["id"]))
    return [
        *feature_table(manifest["processor"]["features"]),
        f"static const Seal seal = {{{kind_bytes}, 0x{model.files.crc:08x}, 0x{held:08x}, {size},",
        f"                          {artifact}}};",
        *table("IndexTable", "index_tables", _index_tables(manifest), "{0, 0, 0, 0, 0}"),
    ]


def feature_table(features: Mapping[str, int]) -> list[str]:
    """C's table of the features that a processor has to have, of `artifact.cpu_features`."""
    rows = [f"{{{_text(name)}, {number}}}" for name, number in features.items()]
    return table("Feature", "features", rows, "{0, 0}")


def _index_tables(manifest: dict) -> list[str]:
    return [
        f"{{{entry['offset']}, {prod(entry['shape'])}, {_int32(entry['within'][0])}, "
        f"{_int32(entry['within'][1])}, {int(entry['ascending'])}}}"
        for entry in manifest["weights"]
        if entry["dtype"] == "int32" and "within" in entry
    ]


def _bytes(values: bytes) -> str:
    return f"{{{', '.join(map(str, values))}}}"


def _int32(value: int) -> str:
    return "INT32_MIN" if value == -(1 << 31) else str(value)


def _tensors(model: Model) -> list[str]:
    starts, _ = model.offsets
    weights = [entry["offset"] for entry in model.files.manifest["weights"]]
    extents: list[int] = []
    rows = []
    for tensor in model.calls.tensors:
        dtype = np.dtype(tensor.dtype)
        offset = {"storage": starts, "weight": weights}.get(tensor.place)
        rows.append(
            f"{{{tensor.place.upper()}, {TYPE_CODES[dtype.kind]}, {8 * dtype.itemsize}, "
            f"{len(tensor.shape)}, {len(extents)}, "
            f"{tensor.index if offset is None else offset[tensor.index]}}}"
        )
        extents += tensor.shape
    return [
        *table("int64_t", "extents", list(map(str, extents)), "0"),
        *table("PlacedTensor", "placed_tensors", rows, "{0, 0, 0, 0, 0, 0}"),
    ]


def _interface(kind: str, model: Model) -> list[str]:
    """The descriptions of the inputs or outputs that the library gives."""
    lines, rows = [], []
    for number, each in enumerate(model.files.manifest[f"{kind}s"]):
        shape = ", ".join(map(str, each["shape"])) or "0"
        lines.append(f"static const int64_t {kind}_shape_{number}[] = {{{shape}}};")
        nbytes = prod(each["shape"]) * np.dtype(each["dtype"]).itemsize
        rows.append(
            f"{{{_text(each['name'])}, {_text(each['dtype'])}, {len(each['shape'])}, "
            f"{kind}_shape_{number}, {nbytes}}}"
        )
    return lines + table("MODEL_TENSOR", f"{kind}_tensors", rows, "{0}")


def _calls(model: Model) -> list[str]:
    arguments: list[int] = []
    rows = []
    names = [
        " + ".join(call["layers"]) or call["function"] for call in model.files.manifest["calls"]
    ]
    for call, name in zip(model.calls.calls, names, strict=True):
        kernel = _symbol(model, call.function)
        rows.append(f"{{{kernel}, {len(arguments)}, {len(call.arguments)}, {_text(name)}}}")
        arguments += call.arguments
    return [
        *table("uint32_t", "arguments", list(map(str, arguments)), "0"),
        *table("Call", "calls", rows, "{0, 0, 0, 0}"),
    ]


def table(kind: str, name: str, rows: Sequence[str], none: str) -> list[str]:
    """An array of C, some entries per line; C has none of no entry."""
    lines, line = [], ""
    for row in rows or [none]:
        if line and len(line) + len(row) > 96:
            lines.append(line)
            line = ""
        line += f" {row}," if line else f"  {row},"
    return [f"static const {kind} {name}[] = {{", *lines, line, "};"]


def _text(value: str) -> str:
    """A C string of the value in UTF-8, whatever characters it has."""
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in value.encode()
    )
    return f'"{escaped}"'


def _plain(value: str) -> str:
    """A name in a comment of C."""
    return "".join(c if c.isalnum() or c in "_.-/ " else "?" for c in value).replace("*/", "??")
