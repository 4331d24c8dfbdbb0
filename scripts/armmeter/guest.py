"""Runs inside the emulated AArch64 guest: loads one engine and one model, marks what is counted.

    python guest.py ENGINE MODEL INPUT.npy OUTPUT.npy run|layers

"run" marks one inference, "layers" (rt3d only) every call in it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from engine import ENGINES

# What the plugin looks for, in a system call that fails.
START, STOP = 0x5254, 0x5255


def mark(code: int) -> None:
    """Start or stop counting."""
    with contextlib.suppress(ProcessLookupError):
        os.getpgid(code)


def whole_run(engine: str, model: Path, x: np.ndarray) -> Callable[[], np.ndarray]:
    """One inference, marked."""
    run, _ = ENGINES[engine](model, 1, x)

    def marked() -> np.ndarray:
        mark(START)
        y = run()
        mark(STOP)
        return y

    return marked


def layers(model: Path, x: np.ndarray) -> Callable[[], np.ndarray]:
    """One inference of an artifact, each call in it marked by itself."""
    from rt3d_tvm.artifact.load import load

    artifact = load(model, threads=1)

    def instrument(_function, name: str, before_run: bool, _result, *_arguments) -> None:
        if not name.startswith("vm.builtin."):
            mark(START if before_run else STOP)

    artifact.vm.set_instrument(instrument)
    return lambda: artifact.run(x)


def main() -> None:
    """Load, run, save the output."""
    engine, model, given, output, what = sys.argv[1:]
    x = np.load(given)
    prepared = layers(Path(model), x) if what == "layers" else whole_run(engine, Path(model), x)
    np.save(output, prepared())


if __name__ == "__main__":
    main()
