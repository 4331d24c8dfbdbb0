"""Engines timed in turns, each once more alone, their outputs held against ONNX Runtime's.

Each has a process of its own. While one runs, all others are stopped: an engine whose idle threads
spin takes the cores from whatever is measured, and from itself no time at all. Afterwards each runs
with no other process alive; `figures.WITHIN` is how far its two medians may be apart.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from engine_process import SETTLE_S, Engine
from figures import is_int8, ratio
from peer_row import IN_PEERS, PEERS, PLAIN, Row

from rt3d_tvm.artifact.load import MANIFEST, read_manifest
from rt3d_tvm.artifact.verify import reference_session, relative_distance

# Samples of an engine whose run takes longer than engine.py's SLOW_S.
SLOW_ROUNDS = 2
# Another engine that is farther from ONNX Runtime does not compute the model: its time is no
# figure. MNN's converter takes some QDQ files, and its output is then 1e37 times as large.
MAX_PEER_ERROR = 0.5


def measure(rows: list[Row], folder: Path, *, threads: int, rounds: int) -> dict:
    """Run every engine in turns, then alone, and compare what they compute with ONNX Runtime."""
    own = [row for row in rows if row.engine == "rt3d" and not row.missing]
    probes = [
        Row(title="", engine="rt3d_calls", kind=row.kind, path=row.path, reference=row.reference)
        for row in own
    ]
    any_file = rows[0].path
    peak = Row(title="", engine="fma_peak", kind="", path=any_file, reference=any_file)
    engines = in_turns([*rows, *probes, peak], folder, threads, rounds)
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
        "engines": [
            _result(engine, alone(engine, folder, threads, rounds), folder) for engine in timed
        ],
        "calls": calls,
        "layers": {row.kind: read_manifest(row.path / MANIFEST)["layers"] for row in own},
        "fma_peak_gflops": probed[-1].values,
        "memory": measure_memory(rows, folder, threads),
    }


def in_turns(rows: list[Row], folder: Path, threads: int, rounds: int) -> list[Engine]:
    """Start an engine for each row and run them in turns, one at a time; all of them have ended."""
    engines = []
    with contextlib.ExitStack() as running:
        for row in rows:
            engine = running.enter_context(Engine(row, folder, threads))
            engine.start().stop()
            engines.append(engine)
        for index in range(rounds):
            for engine in engines:
                if not engine.slow or index < SLOW_ROUNDS:
                    engine.turn()
    return engines


def alone(measured: Engine, folder: Path, threads: int, rounds: int) -> Engine:
    """The engine of the same row, as often, one run after the other, in the only process."""
    with Engine(measured.row, folder, threads) as engine:
        if not measured.failed:
            engine.start()
            time.sleep(SETTLE_S)
            for _ in range(SLOW_ROUNDS if engine.slow else rounds):
                engine.run()
    return engine


def _result(engine: Engine, single: Engine, folder: Path) -> dict:
    """What one row measured; rel_error is max |y - ref| / max |ref| against ONNX Runtime.

    turns_over_alone: median in turns over median alone.
    """
    error = None
    if not engine.failed:
        # 8-bit graphs as they are written: ONNX Runtime's int8 kernels saturate on old processors.
        session = reference_session(engine.row.reference, optimised=not is_int8(engine.row.kind))
        clip = np.load(folder / "clip.npy")
        expected = session.run(None, {session.get_inputs()[0].name: clip})[0]
        error = relative_distance(np.load(engine.output), expected)
        if engine.row.engine != "rt3d" and error > MAX_PEER_ERROR:
            engine.failed = f"computes something else than the file says: error {error:.0e}"
            engine.samples = []
    median, alone_median = (
        statistics.median(each.samples) if each.samples else None for each in (engine, single)
    )
    return {
        **asdict(engine.row),
        "version": engine.version,
        "failed": engine.failed,
        "rel_error": error,
        "slow": engine.slow,
        "samples_ms": engine.samples,
        "median_ms": median,
        "alone_failed": single.failed,
        "alone_samples_ms": single.samples,
        "alone_median_ms": alone_median,
        "turns_over_alone": ratio(median, alone_median),
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
        with Engine(Row(**{**asdict(row), "engine": plain}), folder, threads, python) as engine:
            engine.start().run()
        entry = {"title": row.title, "engine": row.engine, "kind": row.kind, **engine.memory}
        if row.engine == "rt3d":
            manifest = read_manifest(row.path / MANIFEST)
            entry["weights_mb"] = manifest["weight_bytes"] / 1e6
            entry["activations_mb"] = manifest["planned_activation_bytes"] / 1e6
        found.append({**entry, "failed": engine.failed})
    return found
