"""Runs inside the emulated AArch64 guest: kernels one after the other, each marked, caches cold.

    python guest_kernels.py DIR NAME...

DIR is a layer's folder as default_grid.py writes it, each NAME one of its kernels.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import tvm
from guest import START, STOP, mark

# Empties the caches of the meter.
EMPTY = 0x5256

os.environ["TVM_NUM_THREADS"] = "1"
folder = Path(sys.argv[1])
library = tvm.runtime.load_module(str(folder / "kernels.so"))
calls = json.loads((folder / "calls.json").read_text(encoding="utf-8"))
with np.load(folder / "arguments.npz") as file:
    tensors = {name: tvm.runtime.tensor(file[name]) for name in file.files}
for name in sys.argv[2:]:
    arguments = [tensors[key] for key in calls[name]]
    mark(EMPTY)
    mark(START)
    library[name](*arguments)
    mark(STOP)
