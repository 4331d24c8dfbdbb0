"""Runs inside the emulated AArch64 guest: kernels one after the other, each marked, caches cold.

    python guest_kernels.py KERNEL.so...

Beside each library lie its arguments, KERNEL.npz; its function is called "main".
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import tvm
from guest import START, STOP, mark

# Empties the caches of the meter.
EMPTY = 0x5256

os.environ["TVM_NUM_THREADS"] = "1"
for path in map(Path, sys.argv[1:]):
    with np.load(path.with_suffix(".npz")) as file:
        arguments = [tvm.runtime.tensor(file[f"arr_{i}"]) for i in range(len(file.files))]
    function = tvm.runtime.load_module(str(path))["main"]
    mark(EMPTY)
    mark(START)
    function(*arguments)
    mark(STOP)
