"""Runs AArch64 commands under the counting plugin, over the guest that setup.sh makes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from estimate import uncounted

from rt3d_tvm.errors import InputError

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
HOME = Path(os.environ.get("ARMMETER_HOME") or CACHE / "rt3d-armmeter").absolute()
# Half an hour: some 40 million instructions are emulated in a second.
TIMEOUT_S = 1800.0
# The nearest to a Cortex-A77 that QEMU has: fp16 and dot product, not i8mm.
CPU = "cortex-a76"


def emulate(
    command: list,
    *,
    environment: Mapping[str, str],
    timeout: float,
    top: int = 6,
    cpu: str = CPU,
) -> dict:
    """Run an AArch64 command under the counting plugin; the caches and the counts of each region.

    InputError where the set-up is missing, and for a command that fails or takes too long.
    """
    emulator = shutil.which("qemu-aarch64")
    if emulator is None:
        raise InputError(f"no qemu-aarch64 here: run {HERE / 'setup.sh'}")
    with tempfile.TemporaryDirectory(prefix="armmeter.") as folder:
        out = Path(folder) / "counts.json"
        plugin = f"file={needed(HOME / 'libarmmeter.so')},out={out},top={top}"
        qemu = [emulator, "-cpu", cpu, "-L", str(HOME / "root"), "-plugin", plugin]
        try:
            done = subprocess.run(
                [*qemu, *map(str, command)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
                env={**environment, "HOME": folder},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(f"not finished after {timeout:g} s: raise --timeout") from error
        if done.returncode or not out.exists():
            # QEMU says so before it begins, or the program ends by SIGILL.
            lacking = done.returncode in (-signal.SIGILL, 128 + signal.SIGILL)
            why = f"; {cpu} lacks one of its instructions, --cpu names another" if lacking else ""
            raise InputError(
                f"the guest ended with status {done.returncode}{why}\n{done.stdout[-3000:]}"
            )
        counts = json.loads(out.read_text())
    if missing := uncounted(counts["regions"]):
        raise InputError(
            f"{HOME / 'libarmmeter.so'} is of an older version, it does not count "
            f"{', '.join(missing)}: run {HERE / 'setup.sh'}"
        )
    return {**counts, "said": done.stdout}


def run_python(
    script: Path, arguments: list, *, peers: bool, timeout: float, cpu: str = CPU
) -> dict:
    """Run a script with the guest's Python, with TVM and, on demand, the peers at hand."""
    paths = [needed(HOME / "site"), HERE.parent / "peers", REPOSITORY]
    if peers:
        paths.append(needed(HOME / "peers", "--peers"))
    environment = {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": ":".join(map(str, paths)),
        "PYTHONPYCACHEPREFIX": str(HOME / "pycache"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TVM_BIND_THREADS": "0",
        "TVM_THREAD_POOL_SPIN_COUNT": "0",
    }
    python = needed(HOME / "root/usr/bin/python3.11")
    command = [python, script, *arguments]
    return emulate(command, environment=environment, timeout=timeout, cpu=cpu)


def needed(path: Path, flag: str = "") -> Path:
    """The path; InputError where the set-up has not made it."""
    if not path.exists():
        raise InputError(f"{path} is missing: run {HERE / 'setup.sh'} {flag}".rstrip())
    return path
