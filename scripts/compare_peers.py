"""This project beside other engines: one run, one machine, the same files, input and threads.

    python scripts/compare_peers.py [--models c3d r2plus1d s3d] [--rounds 10]

Each engine has a process of its own; they are timed in turns, so that a drifting clock meets them
all. Prints a table a model and writes OUT/peers.json with every sample. Engines other than PyTorch
and ONNX Runtime need `make peers`; one that is not there is named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rt3d_tvm.build import compile_onnx
from rt3d_tvm.deploy import available_cores
from rt3d_tvm.export import export_onnx
from rt3d_tvm.models import MODELS
from rt3d_tvm.models.seeded import noise_clip
from rt3d_tvm.models.weights import WeightsInfo, save_weights
from rt3d_tvm.prune.benchmark import SEED, benchmark_pair
from rt3d_tvm.report import print_table, write_json
from rt3d_tvm.targets import make_target
from topi_sparse.kernel_group import KernelGroup
from topi_sparse.register_tile import pruning_group, vector_unit

ENGINE = Path(__file__).with_name("engine.py")
PEERS = Path(__file__).parents[1] / ".venv-peers" / "bin"
# The kernel group of the paper's tables, beside the one that this machine prefers.
PAPER_GROUP = KernelGroup(g_m=8, g_n=4)
# Between two engines: worker threads spin for a while after a run.
PAUSE_S = 0.1
# How far this project's rows may be from ONNX Runtime. The others' errors stand in the table: MNN
# transforms its convolutions (Winograd), which costs digits.
MAX_REL_ERROR = 1e-4


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine with one file; ``reference`` is the ONNX file that says what it should compute."""

    title: str
    engine: str
    path: Path
    reference: Path


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one row measured; error is |y - ref| / max |ref| against ONNX Runtime."""

    title: str
    engine: str
    version: str
    median_ms: float
    rel_error: float
    peak_rss_mb: float
    samples_ms: tuple[float, ...]


def main() -> int:
    """Compare on every model; the exit status is 1 where this project computes something else."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--out", type=Path, default=Path("build/peers"))
    parser.add_argument("--rounds", type=int, default=10, help="timed runs of each engine")
    parser.add_argument("--threads", type=int, default=available_cores())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    wrong, document = (
        False,
        {"threads": args.threads, "machine": platform.processor(), "models": {}},
    )
    for name in args.models:
        rows = prepare(name, args.out / name)
        clip = args.out / name / "clip.npy"
        results = measure(rows, clip, threads=args.threads, rounds=args.rounds)
        show(name, results, args.threads, args.rounds)
        own = [result for result in results if result.engine == "rt3d"]
        wrong |= any(not result.rel_error <= MAX_REL_ERROR for result in own)
        document["models"][name] = [asdict(result) for result in results]
        write_json(args.out / "peers.json", document)
    print(args.out / "peers.json")
    return 1 if wrong else 0


def prepare(name: str, out: Path) -> list[Row]:
    """Make the files of a model, and say which engine takes which."""
    out.mkdir(parents=True, exist_ok=True)
    preferred = pruning_group(vector_unit(make_target("host")))
    rate = MODELS[name].paper_rate
    files = {"dense": None}
    for group in dict.fromkeys((preferred, PAPER_GROUP)):
        print(f"{name}: prune at KGS {group}, export, compile", flush=True)
        pair = benchmark_pair(name, group=group)
        if group == preferred:
            export_onnx(pair.dense, pair.input_shape, out / "dense.onnx")
            save_weights(
                out / "dense.safetensors",
                pair.dense,
                WeightsInfo(model=name, classes=MODELS[name].num_classes, seed=SEED),
            )
            np.save(out / "clip.npy", noise_clip(pair.input_shape, seed=SEED + 1).numpy())
        export_onnx(pair.pruned, pair.input_shape, out / f"kgs_{group}.onnx")
        files[f"kgs_{group}"] = f"rt3d KGS {group} at {rate:g}x"
    rows = [
        Row(
            title=title or "rt3d dense",
            engine="rt3d",
            path=out / stem,
            reference=out / f"{stem}.onnx",
        )
        for stem, title in files.items()
    ]
    for stem in files:
        compile_onnx(out / f"{stem}.onnx", out / stem)
    dense = out / "dense.onnx"
    for title, engine, path in (
        ("PyTorch", "pytorch", out / "dense.safetensors"),
        ("PyTorch without oneDNN", "pytorch_without_onednn", out / "dense.safetensors"),
        ("ONNX Runtime", "onnxruntime", dense),
        ("OpenVINO", "openvino", dense),
        ("MNN", "mnn", out / "dense.mnn"),
    ):
        if engine in ("openvino", "mnn") and not PEERS.is_dir():
            print(f"{title}: left out, there is no {PEERS.parent.name}; `make peers` makes it")
            continue
        rows.append(Row(title=title, engine=engine, path=path, reference=dense))
    if PEERS.is_dir():
        convert = ["-f", "ONNX", "--modelFile", dense, "--MNNModel", out / "dense.mnn"]
        subprocess.run(
            [PEERS / "mnnconvert", *convert, "--bizCode", "rt3d"], check=True, capture_output=True
        )
    return rows


class Engine:
    """A running engine.py."""

    def __init__(self, row: Row, clip: Path, threads: int) -> None:
        self.row = row
        python = PEERS / "python" if row.engine in ("openvino", "mnn") else sys.executable
        self.output = row.path.with_name(f"{row.path.name}.{row.engine}.npy")
        self.process = subprocess.Popen(
            [python, ENGINE, row.engine, row.path, str(threads), clip, self.output],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self.version = self._answer("version")
        self.samples: list[float] = []
        self.peak_rss_mb = 0.0

    def _answer(self, key: str):
        """The next JSON line that has this key; engines print lines of their own as well."""
        for line in self.process.stdout:
            if line.startswith("{") and key in (answer := json.loads(line)):
                self.last = answer
                return answer[key]
        raise RuntimeError(f"{self.row.title} ended with status {self.process.wait()}")

    def run(self) -> None:
        """Time one run."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        self.samples.append(self._answer("ms"))
        self.peak_rss_mb = self.last["peak_rss_mb"]

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def measure(rows: list[Row], clip: Path, *, threads: int, rounds: int) -> list[Result]:
    """Start every engine, run them in turns, and compare what they compute with ONNX Runtime."""
    engines = [Engine(row, clip, threads) for row in rows]
    for _ in range(rounds):
        for engine in engines:
            time.sleep(PAUSE_S)
            engine.run()
    results = []
    for engine in engines:
        engine.close()
        expected = reference(engine.row.reference, clip)
        error = np.max(abs(np.load(engine.output) - expected)) / np.max(abs(expected))
        results.append(
            Result(
                title=engine.row.title,
                engine=engine.row.engine,
                version=engine.version,
                median_ms=statistics.median(engine.samples),
                rel_error=float(error),
                peak_rss_mb=engine.peak_rss_mb,
                samples_ms=tuple(engine.samples),
            )
        )
    return results


def reference(onnx: Path, clip: Path) -> np.ndarray:
    """What ONNX Runtime computes."""
    from rt3d_tvm.verify import reference_session

    session = reference_session(onnx)
    return session.run(None, {session.get_inputs()[0].name: np.load(clip)})[0]


def show(name: str, results: list[Result], threads: int, rounds: int) -> None:
    """A table, the best of the peers being 1."""
    best = min(result.median_ms for result in results if result.engine != "rt3d")
    print_table(
        [
            (
                result.title,
                result.version,
                result.median_ms,
                best / result.median_ms,
                f"{result.rel_error:.0e}",
                result.peak_rss_mb,
            )
            for result in results
        ],
        columns=("engine", "version", "median ms", "x best peer", "error", "peak MB"),
        title=f"{MODELS[name].title}: {threads} threads, median of {rounds} runs in turns",
    )


if __name__ == "__main__":
    sys.exit(main())
