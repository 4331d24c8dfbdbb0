"""Run an artifact with TVM's runtime and numpy alone: python run_plain.py DIR [INPUT.npy].

Prints the output as JSON. Set TVM_NUM_THREADS to the number of cores: left alone, TVM takes half of
them on x86-64. `import tvm` would load the compiler as well, which takes 140 MB that running does
not need.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tvm_ffi
from tvm_ffi.libinfo import load_lib_ctypes

CPU, POOLED = 1, 2  # DLPack's device type, the Relax VM's kind of allocator


def load_plain(folder: Path) -> tuple[dict, Callable[[np.ndarray], np.ndarray]]:
    """The manifest of an artifact, and a function that runs it; its weights stay in their file."""
    libraries = Path(importlib.util.find_spec("tvm").origin).parent / "lib"
    load_lib_ctypes("tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=[libraries])
    manifest = json.loads((folder / "manifest.json").read_text())
    vm = tvm_ffi.load_module(str(folder / "model.so"))["vm_load_executable"]()
    vm["vm_initialization"](CPU, 0, POOLED)
    mapped = np.memmap(folder / "weights.bin", dtype="uint8", mode="c")
    built_with = np.from_dlpack(vm["artifact_id"]()).tobytes().hex()
    if {manifest["id"], mapped[32:64].tobytes().hex()} != {built_with}:
        sys.exit(f"{folder}: its three files do not belong together")
    weights = []
    for entry in manifest["weights"]:
        size = int(np.prod(entry["shape"])) * np.dtype(entry["dtype"]).itemsize
        values = mapped[entry["offset"] : entry["offset"] + size].view(entry["dtype"])
        weights.append(tvm_ffi.from_dlpack(values.reshape(entry["shape"])))
    main = vm["main"]
    return manifest, lambda x: np.from_dlpack(main(tvm_ffi.from_dlpack(x), *weights))


if __name__ == "__main__":
    manifest, run = load_plain(Path(sys.argv[1]))
    shape = manifest["inputs"][0]["shape"]
    clip = np.load(sys.argv[2]) if len(sys.argv) > 2 else np.zeros(shape, "float32")
    print(json.dumps(run(clip).tolist()))
