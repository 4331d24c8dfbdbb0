"""Load an artifact with the plain TVM runtime and run it.

Needs apache-tvm and numpy only; examples/run_plain.py does the same without this package.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from rt3d_tvm.arguments import as_path
from rt3d_tvm.artifact.batches import part_for, parts_of
from rt3d_tvm.artifact.cpu_features import check_runs_here
from rt3d_tvm.artifact.format import (
    ALIGNMENT,
    FORMAT,
    MANIFEST,
    MODEL,
    WEIGHTS,
    ArtifactFiles,
    read_manifest,
)
from rt3d_tvm.artifact.mapped_file import MappedFile
from rt3d_tvm.artifact.tensors import Tensors, given, named
from rt3d_tvm.artifact.threads import (
    KernelThread,
    available_cores,
    kernel_thread,
    set_threads,
    threads_used,
)
from rt3d_tvm.errors import InputError, words_of

# Some are of other modules now; release 0.1 had them all in this one.
__all__ = [
    "ALIGNMENT",
    "FORMAT",
    "MANIFEST",
    "MODEL",
    "WEIGHTS",
    "Artifact",
    "available_cores",
    "elf_machine",
    "load",
    "load_library",
    "read_manifest",
    "set_threads",
]

# ELF's numbers of the architectures that there are targets for.
_MACHINES = {62: "x86_64", 183: "aarch64"}
_libraries = itertools.count()


@dataclass(frozen=True, eq=False)
class Artifact:
    """A loaded model: ``run`` takes and returns numpy arrays; the manifest says of what shape.

    Where it has several inputs or outputs they are dicts of arrays by name.

    Any thread may call ``run``; calls take turns. All artifacts that run on several threads take
    turns with each other, too. One with ``threads=1`` runs beside others. A forked process may go
    on using it.

    threads: how many really run it. inputs: where each run of a function puts its inputs: a new
    tensor of a clip's size would be new pages each time, which takes S3D some percent of a run.
    """

    manifest: dict
    vm: relax.VirtualMachine
    inputs: dict[str, list[tvm.runtime.Tensor]]
    weights: list[tvm.runtime.Tensor]
    threads: int
    weights_file: MappedFile
    thread: KernelThread

    def run(self, x: np.ndarray | Mapping[str, np.ndarray]) -> Tensors:
        """The model's output for one float32 input, or for several by name.

        Of an artifact of several batches the one that ``x`` has runs. InputError for another shape,
        type or name, and where somebody has written to weights.bin since it was loaded.
        """
        part = part_for(self.manifest, x)
        taken = given(part, x)
        self.weights_file.check()
        return named(part, self.thread.call(self.threads, self._run, part, taken))

    def _run(self, part: dict, taken: list[np.ndarray]) -> list[np.ndarray]:
        places = self.inputs[part["function"]]
        held = [place.copyfrom(x) for place, x in zip(places, taken, strict=True)]
        result = self.vm[part["function"]](*held, *self.weights)
        several = len(part["outputs"]) > 1
        return [each.numpy() for each in result] if several else [result.numpy()]


def load(folder: str | Path, *, threads: int | None = None) -> Artifact:
    """Load the artifact that is in ``folder`` now; the weights are mapped, not copied.

    The checksum of every file is taken, a third of a second for each GB, and what loads stays as
    it is when another artifact takes the folder.
    threads: how many the runtime may use, by default as many as this process has cores. InputError
    for a folder that holds no artifact or one for another processor, and for files in it that are
    damaged or do not belong together.
    """
    files, code, weights_file, arrays = _read(as_path(folder, "folder"))
    threads = available_cores() if threads is None else threads
    thread = kernel_thread(threads)

    def start() -> tuple[relax.VirtualMachine, int]:
        return relax.VirtualMachine(load_library(code), tvm.cpu()), threads_used()

    try:
        vm, used = thread.call(threads, start)
    except (RuntimeError, AttributeError) as error:
        reason = words_of(error, lines=1)
        raise InputError(f"{files.folder / MODEL}: cannot be loaded: {reason}") from error
    weights = [tvm.runtime.from_dlpack(value) for value in arrays]
    inputs = {
        part["function"]: [tvm.runtime.empty(e["shape"], e["dtype"]) for e in part["inputs"]]
        for part in parts_of(files.manifest)
    }
    return Artifact(files.manifest, vm, inputs, weights, used, weights_file, thread)


def _read(folder: Path) -> tuple[ArtifactFiles, bytes, MappedFile, list[np.ndarray]]:
    """The files of one artifact, its code and its weights, even while another takes the folder."""
    files = ArtifactFiles.open(folder)
    while True:
        try:
            check_runs_here(files.manifest, folder)
            return files, files.code(), *files.weights()
        except InputError:
            seen, files = files, ArtifactFiles.open(folder)
            if files.crc == seen.crc:
                raise


def load_library(code: bytes) -> tvm_ffi.Module:
    """A shared library from memory, which is gone from the process when nothing uses it any more.

    The dynamic loader gives back what it has under a path already, whatever is in the file now. So
    the code goes into a file without a name, under a path that nothing was loaded from before.
    InputError where the system does not let a process have such a file, or none of that size.
    """
    # Open files take numbers again that others had. A count in binary, as "/" and "./", leads
    # nowhere else and makes the path another each time.
    spelled = f"{next(_libraries):b}".replace("0", "/").replace("1", "./")
    loaded = tvm_ffi.get_global_func("ffi.Module.load_from_file.so")
    try:
        with os.fdopen(os.memfd_create(MODEL), "wb") as file:
            file.write(code)
            file.flush()
            return loaded(f"/proc/self/fd/{spelled}{file.fileno()}", "so")
    except OSError as error:
        raise InputError(f"no memory for the code of {MODEL}: {error.strerror}") from error


def elf_machine(path: Path) -> str | None:
    """The architecture that a shared library is for; None for what is no 64-bit ELF library."""
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:6] != b"\x7fELF\x02\x01":
        return None
    number = struct.unpack_from("<H", head, 18)[0]
    return _MACHINES.get(number, f"ELF machine {number}")
