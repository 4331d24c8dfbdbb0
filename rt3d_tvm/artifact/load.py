"""Load an artifact with the plain TVM runtime and run it.

Needs apache-tvm and numpy only; examples/run_plain.py does the same without this package.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from rt3d_tvm.arguments import as_path
from rt3d_tvm.errors import InputError

MODEL, WEIGHTS, MANIFEST = "model.so", "weights.bin", "manifest.json"
# The manifest's own version, raised when a field changes its meaning, and what loading reads in it.
FORMAT = 2
_FIELDS = {"format", "id", "inputs", "outputs", "weights", "sha256"}
# The weights file: magic, its size in 8 bytes, the 32 bytes of its id; then each weight, aligned as
# TVM asks of the memory that it is handed.
ALIGNMENT = 64
# ELF's numbers of the architectures that there are targets for.
_MACHINES = {62: "x86_64", 183: "aarch64"}
# The affinity mode of TVM's thread pool that prefers big cores, where there are two kinds.
_BIG_CORES = 1
MAGIC = b"rt3d-tvm weights\0\0\0\0\0\0\0\0"


@dataclass(frozen=True, eq=False)
class Artifact:
    """A loaded model: ``run`` takes and returns numpy arrays; the manifest says of what shape.

    threads: how many really run it.
    """

    manifest: dict
    vm: relax.VirtualMachine
    weights: list[tvm.runtime.Tensor]
    threads: int

    def run(self, x: np.ndarray) -> np.ndarray:
        """The model's output for one float32 input; InputError for another shape or type."""
        check_input(self.manifest, x)
        return self.vm["main"](tvm.runtime.tensor(x), *self.weights).numpy()


def check_input(manifest: dict, x: np.ndarray) -> None:
    """InputError where ``x`` has another shape or type than the model of ``manifest`` takes."""
    expected = manifest["inputs"][0]
    if list(x.shape) != expected["shape"] or str(x.dtype) != expected["dtype"]:
        raise InputError(
            f"input {expected['name']!r} is {x.dtype} of shape {tuple(x.shape)}; the model "
            f"takes {expected['dtype']} of shape {tuple(expected['shape'])}"
        )


def load(folder: str | Path, *, threads: int | None = None) -> Artifact:
    """Load the artifact in ``folder``; the weights are mapped, not read.

    threads: how many the runtime may use, by default as many as this process has cores. InputError
    for a folder that holds no artifact or one for another processor, and for files in it that do
    not belong together.
    """
    folder = as_path(folder, "folder")
    manifest = read_manifest(folder / MANIFEST)
    for name in (MODEL, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name} in it; a folder made by `rt3d compile` has one")
    threads = set_threads(threads or available_cores())
    try:
        library = tvm.runtime.load_module(str((folder / MODEL).resolve()))
        vm = relax.VirtualMachine(library, tvm.cpu())
        expected = vm["artifact_id"]().numpy().tobytes()
    except (RuntimeError, AttributeError) as error:
        machine = elf_machine(folder / MODEL)
        if machine not in (None, platform.machine()):
            raise InputError(
                f"{folder}: compiled for {machine}, this machine is {platform.machine()}; `rt3d "
                "remote` runs it on a device"
            ) from error
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder / MODEL}: not a model of `rt3d compile`: {reason}") from error
    weights = [tvm.runtime.from_dlpack(value) for value in map_weights(folder, manifest, expected)]
    return Artifact(manifest, vm, weights, threads)


def elf_machine(path: Path) -> str | None:
    """The architecture that a shared library is for; None for what is no 64-bit ELF library."""
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:6] != b"\x7fELF\x02\x01":
        return None
    number = struct.unpack_from("<H", head, 18)[0]
    return _MACHINES.get(number, f"ELF machine {number}")


def map_weights(
    folder: Path, manifest: dict, expected: bytes, *, of: str = MODEL
) -> list[np.ndarray]:
    """The weights as arrays on the mapped file itself; they are not read.

    ``expected`` is the id that the file ``of`` has; InputError for weights or a manifest of another
    one, and for a file that is no weights file or is cut short.
    """
    header = len(MAGIC) + 8 + len(expected)
    path = folder / WEIGHTS
    mapped = np.memmap(path, dtype="uint8", mode="c") if path.stat().st_size >= header else None
    if mapped is None or mapped[: len(MAGIC)].tobytes() != MAGIC:
        raise InputError(f"{path}: not a weights file")
    if mapped[len(MAGIC) + 8 : header].tobytes() != expected:
        raise InputError(f"{folder}: {of} and {WEIGHTS} are of two different artifacts")
    if manifest["id"] != expected.hex():
        raise InputError(f"{folder}: {of} and {MANIFEST} are of two different artifacts")
    size = int.from_bytes(mapped[len(MAGIC) : len(MAGIC) + 8].tobytes(), "little")
    if mapped.size != size:
        raise InputError(f"{path}: {mapped.size} bytes long, should be {size}")
    try:
        return [_view(mapped, entry) for entry in manifest["weights"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / MANIFEST}: its list of weights is damaged: {error}") from error


def read_manifest(path: Path) -> dict:
    """The manifest; InputError for one that is missing, damaged or of another version."""
    if not path.is_file():
        raise InputError(
            f"{path.parent}: no {path.name} in it; a folder made by `rt3d compile` has one"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(manifest, dict) or not set(manifest) >= _FIELDS:
        raise InputError(f"{path}: not the manifest of an artifact")
    if manifest["format"] != FORMAT:
        raise InputError(
            f"{path}: of format {manifest['format']}; this version reads {FORMAT}: compile it again"
        )
    return manifest


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_threads(threads: int) -> int:
    """Let the TVM runtime use that many threads; left alone it takes half the cores on x86-64.

    Returns how many it uses: fewer where something has run before, because TVM makes its threads
    then and cannot add any. InputError for more threads than cores: they wait for each other by
    spinning.
    """
    cores = available_cores()
    if not 1 <= threads <= cores:
        raise InputError(f"{threads} threads: this process may use 1 to {cores}")
    # TVM makes its threads when it needs the first, as many as this says; later it can use fewer.
    os.environ["TVM_NUM_THREADS"] = str(cores)
    tvm.get_global_func("runtime.config_threadpool")(_BIG_CORES, threads)
    return int(tvm.get_global_func("runtime.NumThreads")())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, without reading it into memory whole."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _view(mapped: np.ndarray, entry: dict) -> np.ndarray:
    """One weight on the mapped file itself."""
    nbytes = int(np.prod(entry["shape"])) * np.dtype(entry["dtype"]).itemsize
    flat = mapped[entry["offset"] : entry["offset"] + nbytes]
    return flat.view(entry["dtype"]).reshape(entry["shape"])
