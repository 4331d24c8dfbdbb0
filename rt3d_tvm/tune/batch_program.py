"""Kernels of a search, with their arguments, -> one static program that times them.

It is made of bundle/c/tune.c and linked for a target; its arguments are files that lie beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from tvm.target import Target

from rt3d_tvm.bundle.elf import Symbol, renamed
from rt3d_tvm.bundle.static_link import link_static
from rt3d_tvm.bundle.tables import (
    HIDDEN,
    KERNEL_PREFIX,
    RAISE,
    SOURCES,
    TYPE_CODES,
    answers,
    feature_table,
    table,
)
from rt3d_tvm.compile.processor_needs import processor_needs
from rt3d_tvm.tune.measuring import Job, Value

_RAISED = f"tune_{RAISE}"
_SOURCES = ("tune.c", "kernels.h", "threads.h", "processor.h", "process.h", "device.h")


@dataclass(frozen=True, kw_only=True)
class BatchTarget:
    """What programs are linked for: an architecture, and the features that its code uses."""

    machine: str
    features: Mapping[str, int]

    @classmethod
    def of(cls, target: Target) -> BatchTarget:
        """That of the kernels of a target."""
        needs = processor_needs(target)
        return cls(machine=needs["machine"], features=needs["features"])


def link_batch(
    jobs: Sequence[Job], files: Mapping[str, str], made: Path, target: BatchTarget
) -> None:
    """Link the program ``made`` of jobs, which it knows by their numbers.

    files: of each argument's name the name of its file; room for a result has none. The folder of
    ``made`` is to be empty. InputError with what the linker says.
    """
    folder = made.parent
    for name in _SOURCES:
        shutil.copyfile(SOURCES / name, folder / name)
    objects = []
    for number, job in enumerate(jobs):
        objects.append(f"k{number}.o")
        (folder / objects[-1]).write_bytes(_own(job.path.read_bytes(), number))
    (folder / "batch.h").write_text(_header(jobs, files, target), encoding="utf-8")
    link_static(folder, made.name, ["tune.c", *objects], machine=target.machine)


def shape_and_dtype(value: Value) -> tuple[tuple[int, ...], np.dtype]:
    """Of an argument."""
    if isinstance(value, tuple):
        return value[0], np.dtype(value[1])
    return value.shape, value.dtype


def _own(kernel: bytes, number: int) -> bytes:
    """An object file whose symbols are its own: all kernels have the same names."""

    def own(symbol: Symbol) -> str:
        if symbol.name == RAISE:
            return _RAISED
        return f"k{number}_{symbol.name}" if symbol.defined else symbol.name

    return renamed(kernel, own)


def _header(jobs: Sequence[Job], files: Mapping[str, str], target: BatchTarget) -> str:
    """The tables of a batch."""
    values = {name: value for job in jobs for name, value in job.arguments.items()}
    numbers = {name: number for number, name in enumerate(values)}
    counts = {
        "CANDIDATES": len(jobs),
        "ARGUMENTS": len(values),
        "MOST_ARGUMENTS": max((len(job.arguments) for job in jobs), default=1),
        "FEATURES": len(target.features),
    }
    declared = [
        line
        for number in range(len(jobs))
        for line in (
            f"HIDDEN int {_kernel(number)}(void *, const Any *, int32_t, Any *);",
            *answers(f"k{number}"),
        )
    ]
    return "\n".join(
        [
            "// Written by rt3d tune.",
            f"#define RAISE {_RAISED}",
            '#include "kernels.h"',
            '#include "processor.h"',
            f'#define MACHINE "{target.machine}"',
            f"enum {{ {', '.join(f'{name} = {value}' for name, value in counts.items())} }};",
            HIDDEN,
            *declared,
            "// Code and bits of a type as DLPack has them, where the extents begin, the file or",
            "// NULL for the result.",
            "typedef struct {",
            "  uint8_t code, bits, ndim;",
            "  uint32_t shape;",
            "  uint64_t bytes;",
            "  const char *file;",
            "} Argument;",
            "typedef struct {",
            "  Kernel kernel;",
            "  int first, count;",
            "} Candidate;",
            *feature_table(target.features),
            *_arguments(values, files),
            *_candidates(jobs, numbers),
            "",
        ]
    )


def _kernel(number: int) -> str:
    return f"k{number}_{KERNEL_PREFIX}main"


def _arguments(values: Mapping[str, Value], files: Mapping[str, str]) -> list[str]:
    extents: list[str] = []
    rows = []
    for name, value in values.items():
        shape, dtype = shape_and_dtype(value)
        code, bits = TYPE_CODES[dtype.kind], 8 * dtype.itemsize
        file = f'"{files[name]}"' if name in files else "NULL"
        nbytes = prod(shape) * dtype.itemsize
        rows.append(f"{{{code}, {bits}, {len(shape)}, {len(extents)}, {nbytes}, {file}}}")
        extents += map(str, shape)
    return [
        *table("int64_t", "extents", extents, "0"),
        *table("Argument", "arguments", rows, "{0}"),
    ]


def _candidates(jobs: Sequence[Job], numbers: Mapping[str, int]) -> list[str]:
    indices: list[str] = []
    rows = []
    for number, job in enumerate(jobs):
        rows.append(f"{{{_kernel(number)}, {len(indices)}, {len(job.names)}}}")
        indices += (str(numbers[name]) for name in job.names)
    return [
        *table("int", "indices", indices, "0"),
        *table("Candidate", "candidates", rows, "{0}"),
    ]
