"""How much memory a model takes, measured in a process that does nothing else.

    python -m rt3d_tvm.reporting.memory FOLDER|X.onnx THREADS

prints the megabytes that the process grew by from the imports to its peak after two runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

_DEADLINE_S = 600


def memory_mb(model: Path, threads: int) -> float | None:
    """Megabytes that loading and running a model adds at most; None where that cannot be asked.

    ``model`` is a compiled one's folder, or an ONNX file for ONNX Runtime.
    """
    command = [sys.executable, "-m", __name__, str(model), str(threads)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    found = re.search(r"^peak_mb ([\d.]+)$", done.stdout, re.M)
    return None if done.returncode or found is None else float(found[1])


def main(argv: list[str]) -> None:
    """Load, run twice, print."""
    model, threads = Path(argv[0]), int(argv[1])
    run = _onnx(model, threads) if model.is_file() else _artifact(model, threads)
    before = _status_mb("VmRSS")
    run()
    print(f"peak_mb {max(_status_mb('VmHWM') - before, 0.0):.1f}")


def _artifact(folder: Path, threads: int):
    from rt3d_tvm.artifact.load import load
    from rt3d_tvm.artifact.tensors import noise

    def run() -> None:
        artifact = load(folder, threads=threads)
        x = noise(artifact.manifest, np.random.default_rng(0))
        artifact.run(x)
        artifact.run(x)

    return run


def _onnx(path: Path, threads: int):
    from rt3d_tvm.artifact.verify import reference_session

    def run() -> None:
        session = reference_session(path, threads=threads)
        feeds = {
            each.name: np.zeros([n if isinstance(n, int) else 1 for n in each.shape], "float32")
            for each in session.get_inputs()
        }
        session.run(None, feeds)
        session.run(None, feeds)

    return run


def _status_mb(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{field}:\s+(\d+)", status)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


if __name__ == "__main__":
    main(sys.argv[1:])
