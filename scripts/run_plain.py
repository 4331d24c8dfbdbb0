"""Run an artifact with apache-tvm and numpy alone: python run_plain.py DIR [INPUT.npy].

Prints the output as JSON. Set TVM_NUM_THREADS to the number of cores: left alone, TVM takes half of
them on x86-64.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tvm

folder = Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
library = tvm.runtime.load_module(str(folder / "model.so"))
vm = tvm.relax.VirtualMachine(library, tvm.cpu())
mapped = np.memmap(folder / "weights.bin", dtype="uint8", mode="c")
ids = {manifest["id"], mapped[32:64].tobytes().hex(), vm["artifact_id"]().numpy().tobytes().hex()}
if len(ids) > 1:
    sys.exit(f"{folder}: its three files do not belong together")
weights = []
for entry in manifest["weights"]:
    size = int(np.prod(entry["shape"])) * np.dtype(entry["dtype"]).itemsize
    values = mapped[entry["offset"] : entry["offset"] + size].view(entry["dtype"])
    weights.append(tvm.runtime.from_dlpack(values.reshape(entry["shape"])))
shape = manifest["inputs"][0]["shape"]
clip = np.load(sys.argv[2]) if len(sys.argv) > 2 else np.zeros(shape, "float32")
print(json.dumps(vm["main"](tvm.runtime.tensor(clip), *weights).numpy().tolist()))
