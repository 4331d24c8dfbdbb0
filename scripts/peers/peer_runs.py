"""Engines in processes of their own, timed in turns, their outputs held against ONNX Runtime's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from peer_row import IN_PEERS, PEERS, PLAIN, Row

from rt3d_tvm.artifact.load import MANIFEST, read_manifest
from rt3d_tvm.artifact.verify import reference_session, relative_distance

ENGINE = Path(__file__).with_name("engine.py")
# Between two engines: worker threads spin for a while after a run.
PAUSE_S = 0.1
# Samples of an engine whose run takes longer than engine.py's SLOW_S.
SLOW_ROUNDS = 2


class Engine:
    """A running engine.py, or the reason why it does not run."""

    def __init__(self, row: Row, folder: Path, threads: int, python: Path | None = None) -> None:
        self.row, self.failed, self.version = row, row.missing, ""
        self.samples: list[float] = []
        self.values: list[object] = []
        self.memory: dict[str, float] = {}
        self.slow = False
        name = f"{row.engine}.{row.path.name}"
        self.output, self.log = folder / f"{name}.npy", folder / f"{name}.log"
        if self.failed:
            return
        python = python or (PEERS / "python" if row.engine in IN_PEERS else sys.executable)
        clip = folder / "clip.npy"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, ENGINE, row.engine, row.path, str(threads), clip, self.output],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        if ready := self._answer("version"):
            self.version, self.slow = ready["version"], ready["slow"]

    def _answer(self, key: str) -> dict | None:
        """The next JSON line that has this key; engines print lines of their own as well."""
        for line in self.process.stdout:
            if line.startswith("{") and key in (answer := json.loads(line)):
                return answer
        status = self.process.wait()
        said = self.log.read_text(errors="replace").strip().splitlines()
        self.failed = said[-1] if said else f"ended with status {status}"
        return None

    def run(self) -> None:
        """Time one run."""
        if self.failed:
            return
        with contextlib.suppress(BrokenPipeError):  # it has ended; the answer says why
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        if answer := self._answer("ms"):
            self.samples.append(answer["ms"])
            self.values.append(answer["value"])
            self.memory = answer["memory"]

    def close(self) -> None:
        """End the process."""
        if not self.row.missing:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()


def measure(rows: list[Row], folder: Path, *, threads: int, rounds: int) -> dict:
    """Start every engine, run them in turns, and compare what they compute with ONNX Runtime."""
    own = [row for row in rows if row.engine == "rt3d" and not row.missing]
    probes = [
        Row(title="", engine="rt3d_calls", kind=row.kind, path=row.path, reference=row.reference)
        for row in own
    ]
    peak = Row(title="", engine="fma_peak", kind="", path=own[0].path, reference=own[0].reference)
    engines = [Engine(row, folder, threads) for row in (*rows, *probes, peak)]
    for index in range(rounds):
        for engine in engines:
            if not engine.slow or index < SLOW_ROUNDS:
                time.sleep(PAUSE_S)
                engine.run()
    for engine in engines:
        engine.close()
    timed, probed = engines[: len(rows)], engines[len(rows) :]
    calls = [
        {
            "kind": probe.row.kind,
            "calls": read_manifest(probe.row.path / MANIFEST)["calls"],
            "samples_ms": probe.values,
        }
        for probe in probed[:-1]
    ]
    return {
        "engines": [_result(engine, folder) for engine in timed],
        "calls": calls,
        "layers": {row.kind: read_manifest(row.path / MANIFEST)["layers"] for row in own},
        "fma_peak_gflops": probed[-1].values,
        "memory": measure_memory(rows, folder, threads),
    }


def _result(engine: Engine, folder: Path) -> dict:
    """What one row measured; rel_error is max |y - ref| / max |ref| against ONNX Runtime."""
    error = None
    if not engine.failed:
        session = reference_session(engine.row.reference)
        clip = np.load(folder / "clip.npy")
        expected = session.run(None, {session.get_inputs()[0].name: clip})[0]
        error = relative_distance(np.load(engine.output), expected)
    return {
        **asdict(engine.row),
        "version": engine.version,
        "failed": engine.failed,
        "rel_error": error,
        "slow": engine.slow,
        "samples_ms": engine.samples,
    }


def measure_memory(rows: list[Row], folder: Path, threads: int) -> list[dict]:
    """Peak memory to load and run, each engine in an environment without torch, one at a time."""
    if not PLAIN.is_dir() or not PEERS.is_dir():
        return []
    found = []
    for row in rows:
        if row.engine not in ("rt3d", "onnxruntime", *IN_PEERS) or row.missing:
            continue
        plain = "rt3d_plain" if row.engine == "rt3d" else row.engine
        python = (PEERS if row.engine in IN_PEERS else PLAIN) / "python"
        engine = Engine(Row(**{**asdict(row), "engine": plain}), folder, threads, python)
        engine.run()
        engine.close()
        entry = {"title": row.title, "engine": row.engine, "kind": row.kind, **engine.memory}
        if row.engine == "rt3d":
            manifest = read_manifest(row.path / MANIFEST)
            entry["weights_mb"] = manifest["weight_bytes"] / 1e6
            entry["activations_mb"] = manifest["planned_activation_bytes"] / 1e6
        found.append({**entry, "failed": engine.failed})
    return found
