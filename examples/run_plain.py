"""Run an artifact with TVM's runtime and numpy alone: python run_plain.py DIR [INPUT.npy ...].

One file for each input, in the manifest's order. Prints each output as a line of JSON. Set
TVM_NUM_THREADS to the number of cores: left alone, TVM takes half of them on x86-64. `import tvm`
would load the compiler as well, which takes 140 MB that running does not need.
"""

import ctypes
import importlib.util
import json
import os
import platform
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import tvm_ffi
from tvm_ffi.libinfo import load_lib_ctypes

CPU, POOLED = 1, 2  # DLPack's device type, the Relax VM's kind of allocator
# 64 bytes at the end of model.so and at the start of weights.bin: the kind of file, the CRC-32 of
# manifest.json and of what the file holds, its size; then the artifact's id.
SEAL, SEAL_BYTES = "<16sIIQ", 64


def load_plain(folder: Path) -> tuple[dict, Callable[..., list[np.ndarray]]]:
    """The manifest of an artifact, and a function of its inputs, for one thread, that runs it.

    Exits where its files are damaged or do not belong together, and where this processor cannot run
    its code. The weights stay in their file.
    """
    libraries = Path(importlib.util.find_spec("tvm").origin).parent / "lib"
    load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=[libraries])
    try:
        text = (folder / "manifest.json").read_bytes()
        library = (folder / "model.so").read_bytes()
        mapped = np.memmap(folder / "weights.bin", dtype="uint8", mode="c")
    except (OSError, ValueError) as error:
        sys.exit(f"{folder}: not an artifact of `rt3d compile`: {error}")
    for kind, seal, held in (
        (b"rt3d-tvm library", library[-SEAL_BYTES:], library[:-SEAL_BYTES]),
        (b"rt3d-tvm weights", mapped[:SEAL_BYTES].tobytes(), mapped[SEAL_BYTES:]),
    ):
        size = len(held) + SEAL_BYTES
        checked = struct.pack(SEAL, kind, crc32(text), crc32(held), size) + library[-32:]
        if seal != checked:
            sys.exit(f"{folder}: its files are damaged, of two artifacts or of another format")
    manifest = json.loads(text)
    if missing := lacking(**manifest["processor"]):
        sys.exit(f"{folder}: compiled for another processor, this one has no {missing}")

    # The dynamic loader gives back what it has loaded from a path before, whatever is there now.
    # This file is open under a number of its own until the process ends.
    private = os.memfd_create("model.so")
    with os.fdopen(private, "wb", closefd=False) as file:
        file.write(library)
    load = tvm_ffi.get_global_func("ffi.Module.load_from_file.so")
    vm = load(f"/proc/self/fd/{private}", "so")["vm_load_executable"]()
    vm["vm_initialization"](CPU, 0, POOLED)

    weights, position = [], SEAL_BYTES
    for entry in manifest["weights"]:
        size = int(np.prod(entry["shape"])) * np.dtype(entry["dtype"]).itemsize
        values = mapped[position : position + size].view(entry["dtype"]).reshape(entry["shape"])
        if entry["offset"] != position or leaves_memory(values, **entry):
            sys.exit(f"{folder}: weights.bin is not laid out as manifest.json says")
        weights.append(tvm_ffi.from_dlpack(values))
        position += -(-size // SEAL_BYTES) * SEAL_BYTES
    several = len(manifest["outputs"]) > 1
    # An artifact of several batches has a function for each; all take all weights.
    functions = [(vm[part["function"]], signature(part["inputs"])) for part in parts_of(manifest)]

    def run(*inputs: np.ndarray) -> list[np.ndarray]:
        shapes = [(list(x.shape), str(x.dtype)) for x in inputs]
        main = next(function for function, taken in functions if taken == shapes)
        result = main(*map(tvm_ffi.from_dlpack, inputs), *weights)
        return [np.from_dlpack(each) for each in (result if several else [result])]

    return manifest, run


def parts_of(manifest: dict) -> list[dict]:
    """A manifest for each batch that an artifact serves; one where it was compiled for one."""
    return [{"function": "main", **manifest, **part} for part in manifest.get("batches", [{}])]


def signature(entries: list[dict]) -> list[tuple[list[int], str]]:
    """Shape and type of each input."""
    return [(each["shape"], each["dtype"]) for each in entries]


def leaves_memory(values: np.ndarray, within=None, ascending: bool = False, **_: object) -> bool:
    """Whether values that are indices into memory leave their bounds or their order."""
    if within is None:
        return False
    descends = ascending and bool((values[1:] < values[:-1]).any())
    return descends or values.min() < within[0] or values.max() > within[1]


def lacking(machine: str, features: dict[str, int]) -> list[str]:
    """What compiled code uses of a processor and this one has not."""
    if platform.machine() != machine:
        return [machine]
    if machine == "aarch64":
        capabilities = ctypes.CDLL(None).getauxval
        capabilities.restype = ctypes.c_ulong
        bits = capabilities(16) | capabilities(26) << 64
        return [name for name, bit in features.items() if not bits >> bit & 1]
    flags = re.search(r"^flags\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return [name for name in features if name not in flags[1].split()]


if __name__ == "__main__":
    manifest, run = load_plain(Path(sys.argv[1]))
    taken = manifest["inputs"]
    clips = [np.load(path) for path in sys.argv[2:]]
    clips = clips or [np.zeros(each["shape"], each["dtype"]) for each in taken]
    found = [(list(clip.shape), str(clip.dtype)) for clip in clips]
    known = [part["inputs"] for part in parts_of(manifest)]
    if found not in map(signature, known):
        sys.exit(f"{sys.argv[1]} takes {' or '.join(map(str, known))}, not {found}")
    for output in run(*clips):
        if not np.isfinite(output).all():
            sys.exit(
                f"{sys.argv[1]}: {np.sum(~np.isfinite(output))} of its outputs are NaN or infinite"
            )
        print(json.dumps(output.tolist()))
